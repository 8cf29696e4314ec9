"""A durable mark, and the trim point and cursors made of it, against one variable."""

import asyncio
import logging
import random

import pytest

from virtual import Watch, virtually
from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    NewerFormat,
    Trimmed,
    Unavailable,
    WrongKind,
)
from wormspace.knobs import turned
from wormspace.log.durable_cell import ABSENT, DurableCell
from wormspace.log.errors import Deposed
from wormspace.log.records import FORMAT
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.spaces import CURSOR, TRIM, metadata
from wormspace.log.trim_point import Place, TrimPoint

SIZE = 3


def mark_of(worm, name="mark", kind=int, size=SIZE):
    return DurableCell(SegmentedLog(worm.space(name), size, CURSOR), kind)


@pytest.mark.parametrize("page", [1, 2, 64])
def test_it_holds_what_was_set_last_whoever_sets_it(page):
    async def work(worm):
        rng, value, number = random.Random(page), None, ABSENT
        marks = [mark_of(worm) for _ in range(3)]
        for turn in range(35):
            mark, act = rng.choice(marks), rng.random()
            if act < 0.5:
                await mark.put(turn)
                value, number = turn, number + 1
            elif act < 0.75:
                expected = rng.choice((number, number, number - 1, number + 1, ABSENT))
                replaced = await mark.replace(expected, turn)
                assert (replaced is not None) == (expected == number)
                if replaced is not None:
                    assert replaced > number
                    value, number = turn, replaced
            found = await rng.choice(marks).get()
            assert (found and found[1]) == value
            if found:
                assert found[0] >= number
                number = found[0]
                assert await worm.space("mark").head() == number // SIZE, "old values go"
        for mark in marks:
            await mark.close()

    with turned(log_cell_page=page):
        virtually(work)


def test_who_sets_it_often_pays_one_write_each_time():
    async def work(worm):
        mark, watch = mark_of(worm, size=8), Watch(worm)
        assert await mark.get() is None
        await mark.put(0)
        watch.clear()
        costs = []
        for value in range(1, 30):
            await mark.put(value)
            costs.append(watch.clear())
            assert costs[-1].get("trim", 0) == (value % 8 == 0), "once for each segment"
        assert sum(cost == {"write": 1} for cost in costs) >= 20
        assert await mark.get() == (29, 29)
        assert watch.clear()["read"] <= 2
        await mark_of(worm, size=8).get()
        assert watch.clear()["read"] <= 3, "and who looks for it reads a page"

    virtually(work)


def test_two_who_set_it_at_once_both_set_it():
    async def work(worm):
        marks = [mark_of(worm) for _ in range(4)]
        for turn in range(5):
            await asyncio.gather(*(mark.put(10 * turn + i) for i, mark in enumerate(marks)))
            found = [await mark.get() for mark in marks]
            assert len(set(found)) == 1
            assert found[0][1] // 10 == turn
        same = marks[0]
        await asyncio.gather(*(same.put(100 + i) for i in range(5)))
        assert (await same.get())[1] == 104, "in the order of the calls"
        number = found[0][0] + 5
        assert (await same.get())[0] == number
        replaced = await asyncio.gather(*(mark.replace(number, 7) for mark in marks))
        assert sum(one is not None for one in replaced) <= 1

    virtually(work)


class Fails:
    """Lets calls of one kind fail, the first `times` of them."""

    def __init__(self, watch, kind, error, times=1, when=lambda given: True):
        self.left, self.kind, self.error, self.when = times, kind, error, when
        watch.before = self.look

    def look(self, name, given):
        if name == self.kind and self.left and self.when(given):
            self.left -= 1
            raise self.error


def test_a_set_that_failed_is_set_by_the_next_and_holds_nothing():
    async def work(worm):
        mark, watch = mark_of(worm), Watch(worm)
        await mark.put(1)
        Fails(watch, "write", Unavailable("none"))
        with pytest.raises(Unavailable):
            await mark.put(2)
        await mark.put(3)
        assert (await mark_of(worm).get())[1] == 3
        Fails(watch, "write", Unavailable("none"))
        number = (await mark.get())[0]
        with pytest.raises(Unavailable):
            await mark.replace(number, 4)
        assert (await mark.get())[1] == 3
        assert await mark.replace(number, 5)
        assert (await mark.get())[1] == 5

    virtually(work)


@pytest.mark.parametrize("error", [CaptureLost(""), AlreadyWritten("", b"")])
@pytest.mark.parametrize("wrote", [False, True])
def test_a_set_of_unknown_outcome_is_settled(wrote, error):
    async def work(worm):
        mark, watch = mark_of(worm), Watch(worm)
        await mark.put(1)
        write = worm.registers.write

        async def unknown(segment_name, token, offset, value, deadline):
            worm.registers.write = write
            if wrote:
                await write(segment_name, token, offset, value, deadline)
            raise error

        worm.registers.write = unknown
        await mark.put(2)
        assert await mark.get() == ((1, 2) if wrote else (2, 2))
        assert (await mark_of(worm).get())[1] == 2
        watch.clear()
        await mark.put(3)
        assert not wrote or watch.clear() == {"write": 1}

    virtually(work)


def test_old_values_that_cannot_be_trimmed_go_with_a_later_one(caplog):
    caplog.set_level(logging.INFO, "wormspace.log")

    async def work(worm):
        mark, watch = mark_of(worm), Watch(worm)
        Fails(watch, "trim", Unavailable("none"))
        for value in range(SIZE + 1):
            await mark.put(value)
        assert "old values stay for now" in caplog.text
        assert await worm.space("mark").head() == 0
        await mark.put(7)
        assert await worm.space("mark").head() == 1
        watch.clear()
        await mark.put(8)
        assert "trim" not in watch.clear(), "they are gone"

    virtually(work)


def test_who_looks_while_old_values_go_finds_the_new_one():
    async def work(worm):
        mark, other, watch = mark_of(worm), mark_of(worm), Watch(worm)
        await mark.put(0)
        read, puts = other._segmented_log.read, []

        async def meanwhile(start, stop):
            if not puts:
                for value in range(1, 2 * SIZE + 2):
                    puts.append(value)
                    await mark.put(value)
            return await read(start, stop)

        other._segmented_log.read = meanwhile
        assert (await other.get())[1] == puts[-1]
        puts.clear()
        number = (await mark.get())[0]
        assert await other.replace(number, 99) is None, "others were faster"
        assert (await mark.get())[1] == puts[-1]
        end = await mark._segmented_log.end()
        await worm.space("mark").trim_prefix(end // SIZE + 1)
        with pytest.raises(Trimmed):
            await mark_of(worm).get()  # somebody trims what is not his
        assert watch.counts()["read"] < 40

    virtually(work)


def test_rubbish_is_passed_over_and_what_is_newer_is_not():
    async def work(worm):
        mark = mark_of(worm)
        await mark.put(1)
        segment = await worm.space("mark").segment(0)
        await segment.write(1, b"rubbish", (await segment.capture()).token)
        assert await mark.get() == (0, 1)
        await mark.put(2)
        assert await mark.get() == (2, 2)
        await worm.space("new").alloc(metadata(CURSOR), SIZE + 1)
        segment = await worm.space("new").segment(0)
        await segment.unsafe_write(0, bytes([0x93, FORMAT + 1, 0, 0]))
        with pytest.raises(NewerFormat):
            await mark_of(worm, "new").get()
        await worm.space("other").alloc(metadata(TRIM), SIZE + 1)
        for call in ("get", "put", "replace"):
            with pytest.raises(WrongKind):
                await getattr(mark_of(worm, "other"), call)(
                    *{"put": [1], "replace": [ABSENT, 1]}.get(call, [])
                )

    virtually(work)


@pytest.mark.parametrize("call", ["get", "put", "replace"])
def test_a_space_of_another_kind_is_told_by_any_of_its_segments(call):
    async def work(worm):
        space = worm.space("mark")
        for _ in range(3):
            await space.alloc(metadata(TRIM), SIZE + 1)
        await space.trim_prefix(2)
        given = {"put": [1], "replace": [ABSENT, 1]}.get(call, [])
        with pytest.raises(WrongKind):
            await getattr(mark_of(worm), call)(*given)
        assert await (await space.segment(2)).read_range() == [None] * (SIZE + 1)

    virtually(work)


def test_who_was_deposed_does_not_go_on_with_what_it_lost():
    async def work(worm):
        one, other, watch = (mark_of(worm, size=64), mark_of(worm, size=64), Watch(worm))
        await one.put(0)
        for turn in range(1, 5):
            await other.put(turn)
            watch.clear()
            await one.put(10 * turn)
            assert watch.clear()["write"] == 2, "one finds out, one sets it"
        number = (await one.get())[0]
        watch.clear()
        assert await one.replace(number, 50)
        await one.put(60)
        assert watch.clear()["write"] == 2, "nothing is tried with the right of before"

    virtually(work)


def test_who_has_set_it_knows_where_it_is():
    async def work(worm):
        mark, watch = mark_of(worm, size=64), Watch(worm)
        for value in range(20):
            await mark.put(value)
        watch.clear()
        assert (await mark.get())[1] == 19
        assert watch.clear()["read_one"] == 1, "whether the segment is closed"

    with turned(log_near=1, log_probes=2):
        virtually(work)


@pytest.mark.parametrize("call", ["put", "replace"])
@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_what_goes_on_in_the_background_ends_with_the_mark(call, how):
    async def work(worm):
        mark, space = mark_of(worm), worm.space("mark")
        for value in range(SIZE):
            await mark.put(value)
        alloc, begun = mark._segmented_log.space.alloc, []

        async def never(*given, timeout):
            begun.append(asyncio.current_task())
            mark._segmented_log.space.alloc = alloc
            await asyncio.Event().wait()

        mark._segmented_log.space.alloc = never
        given = [SIZE] if call == "put" else [SIZE - 1, SIZE]
        calling = asyncio.ensure_future(getattr(mark, call)(*given))
        await asyncio.sleep(1)
        assert not begun[0].done()
        if how == "cancelled" or call == "replace":
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            assert begun[0].done() == (call == "replace"), "the next who sets it goes on with it"
            await mark.close()
        else:
            await mark.close()
            with pytest.raises(Deposed, match="closed meanwhile"):
                await calling
            assert (await mark.get())[1] == SIZE - 1
        assert begun[0].cancelled()
        assert await space.head() <= 1

    virtually(work)


def test_two_settings_of_one_value_are_told_apart():
    async def work(worm):
        mark = mark_of(worm)
        nonces = {mark.nonce() for _ in range(20)}
        assert len(nonces) == 20
        assert {len(nonce) for nonce in nonces} == {16}
        assert mark._encode(1) != mark._encode(1)
        assert mark.deadline() > 0

    virtually(work)


class Asked:
    """A mark whose answers come when they are told to."""

    def __init__(self):
        self.answers = []

    async def get(self):
        answer = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        return await answer


def test_an_old_answer_that_comes_late_moves_no_trim_point_back():
    async def work(worm):
        mark = Asked()
        trim_point = TrimPoint(mark)
        early, late = (asyncio.ensure_future(trim_point.find()) for _ in range(2))
        await asyncio.sleep(0)
        mark.answers[1].set_result((1, Place(20, 2)))
        assert await late == Place(20, 2)
        mark.answers[0].set_result((0, Place(10, 1)))
        assert await early == trim_point.at == Place(20, 2)

    virtually(work)


def test_a_trim_point_that_was_moved_is_not_looked_for_again():
    async def work(worm):
        trim_point = TrimPoint(DurableCell(SegmentedLog(worm.space("trim"), SIZE, TRIM), Place))
        await trim_point.find()
        watch = Watch(worm)
        await trim_point.move(Place(5, 1))
        assert watch.counts()["write"] == 2, "an allocation, and the value"
        assert watch.counts()["read"] <= 2, "before it is moved"
        assert trim_point.at == Place(5, 1)

    virtually(work)


def test_a_trim_point_only_rises():
    async def work(worm):
        def trim_point():
            return TrimPoint(DurableCell(SegmentedLog(worm.space("trim"), SIZE, TRIM), Place))

        rng, mine, other, highest = random.Random(1), trim_point(), trim_point(), Place(0, 0)
        assert await mine.find() == highest
        for _ in range(25):
            place = Place(rng.randrange(50), rng.randrange(50))
            one = rng.choice((mine, other))
            await one.move(place)
            highest = place if place.position > highest.position else highest
            assert one.at == highest
            if rng.random() < 0.5:
                assert await trim_point().find() == highest
        await asyncio.gather(mine.move(Place(70, 1)), other.move(Place(80, 2)))
        assert await mine.find() == await other.find() == Place(80, 2)
        await mine.close()

    virtually(work)
