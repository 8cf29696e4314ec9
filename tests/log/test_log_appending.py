"""The appender, given positions by a made-up desk: what it asks, packs, writes, and tells."""

import asyncio
import itertools
import random

import msgspec
import pytest

from virtual import Watch, virtually
from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    Closed,
    Trimmed,
    Unavailable,
    UsageError,
    ValueTooLarge,
)
from wormspace.knobs import turned
from wormspace.log.appending import (
    ENTRY_BYTES,
    GRACE_S,
    OVERHEAD_BYTES,
    PAUSE_MAX_S,
    PAUSE_MIN_S,
    STREAM_BYTES,
    Appender,
    _parcels,
    _Wish,
)
from wormspace.log.messages import Given, Pong
from wormspace.log.records import Group, encode, read_pack
from wormspace.log.spaces import ENTRIES
from wormspace.log.tape import Tape
from wormspace.log.tenure import Tenure

SIZE = 8
WRITER = b"appender"
NONE = ()


class Longest(random.Random):
    """Each pause is as long as it may be."""

    def uniform(self, a, b):
        assert a == 0
        return b


class Desk:
    """Hands out what a tenure has, and notes each question and its deadline.

    Attributes:
        at_once: whether it answers without being awaited.
        delay_s: how long it takes if not.
        spoil: makes something else of each answer.
    """

    def __init__(self, tenure, first=100, before=5000):
        self.tenure, self.first, self.before = tenure, first, before
        self.asked, self.deadlines = [], []
        self.at_once, self.delay_s, self.spoil = False, 0.0, None

    def give(self, ask):
        self.asked.append(ask)
        first, before = self.first, self.before
        self.first += sum(ask.counts)
        self.before += ask.size
        links = tuple(dict.fromkeys(names, (i,)) for i, (_, names) in enumerate(ask.named))
        given = Given(tuple(self.tenure.take(len(ask.counts))), first, before, links)
        return self.spoil(given) if self.spoil else given

    def give_now(self, ask):
        return self.give(ask) if self.at_once else None

    async def ask(self, ask, deadline):
        self.deadlines.append(deadline)
        await asyncio.sleep(self.delay_s)
        return self.give(ask)


def appending(work):
    """Runs `work(appender, desk, watch, loop)` in virtual time; there is room for 16 packs."""

    async def main(worm):
        worm.rng = Longest()
        tape = Tape(worm.space("log"), SIZE, ENTRIES)
        tenure = Tenure(tape)
        await tenure.acquire()
        await tenure.extend()
        desk = Desk(tenure)
        appender = Appender(tape, desk, WRITER, lambda: 12.3456)
        await work(appender, desk, Watch(worm), asyncio.get_running_loop())
        await asyncio.sleep(1)
        assert not appender._working, "nothing goes on"

    virtually(main)


async def packs(appender, start, stop):
    """What is in these slots."""
    values = await appender._tape.read(start, stop)
    return [read_pack(raw, slot) for slot, raw in enumerate(values, start)]


def refuse(watch, error, offsets, times=1):
    """The next `times` writes there are refused."""
    left = dict.fromkeys(offsets, times)

    def look(name, given):
        if name == "write" and left.get(given[2], 0):
            left[given[2]] -= 1
            raise error

    watch.before = look


def naive_parcels(parts, largest, pack_bytes, most):
    """Entries by pack: (wish, index) of each."""
    packs, room = [[]], min(pack_bytes, largest)
    left = room
    for wish, start, stop in parts:
        left -= wish.extra
        for i in range(start, stop):
            need = len(wish.bodies[i]) + ENTRY_BYTES
            if packs[-1] and (left < need or len(packs[-1]) >= most):
                packs.append([])
                left = room - wish.extra
            packs[-1].append((wish, i))
            left -= need
    return packs


def wish_of(rng, loop):
    streams = tuple(rng.sample(("a", "b", "c"), rng.choice((0, 0, 1, 2))))
    headers = rng.choice(({}, {}, {"key": "value"}, {"a": "b", "cd": ""}))
    bodies = [bytes(rng.randrange(30)) for _ in range(rng.randrange(1, 9))]
    extra = 20 if streams or headers else 0
    return _Wish(bodies, headers, streams, extra, loop.create_future())


def test_entries_share_packs_as_far_as_there_is_room():
    loop = asyncio.new_event_loop()
    for seed in range(40):
        rng = random.Random(seed)
        wishes = [wish_of(rng, loop) for _ in range(rng.randrange(1, 5))]
        parts = [(w, rng.randrange(len(w.bodies)), len(w.bodies)) for w in wishes]
        pack_bytes, most, largest = rng.choice((40, 90, 500)), rng.choice((1, 3, 99)), 80
        with turned(log_pack_bytes=pack_bytes, log_pack_entries=most):
            parcels = _parcels(parts, largest)
        expected = naive_parcels(parts, largest, pack_bytes, most)
        assert [parcel.count for parcel in parcels] == list(map(len, expected))
        for parcel, entries in zip(parcels, expected, strict=True):
            assert parcel.bodies() == [wish.bodies[i] for wish, i in entries]
            headers = [len(k) + len(v) for w, _ in entries for k, v in w.headers.items()]
            assert parcel.size == sum(map(len, parcel.bodies())) + sum(headers)
            assert parcel.last_of_streams() == {
                name: i for i, (wish, _) in enumerate(entries) for name in wish.streams
            }
            groups = [g for g in parcel.groups() for _ in range(g.count)]
            if any(wish.extra for wish, _ in entries):
                assert [(g.headers, g.streams) for g in groups] == [
                    (wish.headers, wish.streams) for wish, _ in entries
                ]
            else:
                assert groups == []
            parcel.first = 1000 * (1 + parcels.index(parcel))
            parcel.placed()
        for wish, start, stop in parts:
            there = [
                1000 * (1 + n) + k
                for n, entries in enumerate(expected)
                for k, (its, _) in enumerate(entries)
                if its is wish
            ]
            assert wish.positions[start:stop] == there
            assert wish.missing == start
            assert wish.future.done() == (start == 0)
    loop.close()


def test_a_pack_says_what_its_entries_are_and_whose():
    async def work(appender, desk, watch, loop):
        desk.tenure.take(1)
        a = appender.append([b"one", b"two"], {"k": "v"}, ("s", "t"), None)
        b = appender.append([b"three"], {}, (), None)
        assert (await a, await b) == ([100, 101], [102])
        assert await appender.append([b"four"], {}, ("t",), None) == [103]
        first, second = await packs(appender, 1, 3)
        assert (first.first, first.before, second.first, second.before) == (100, 5000, 103, 5015)
        assert (first.writer, first.serial, second.serial) == (WRITER, 1, 2)
        assert first.time_ms == second.time_ms == 12345
        assert first.bodies == [b"one", b"two", b"three"]
        assert first.groups == (Group(2, {"k": "v"}, ("s", "t")), Group(1, {}, ()))
        assert first.links == {"s": (0,), "t": (0,)}
        assert [ask.counts for ask in desk.asked] == [(3,), (1,)]
        assert [ask.size for ask in desk.asked] == [15, 4], "of headers, for each entry"
        assert [ask.named for ask in desk.asked] == [((0, {"s": 1, "t": 1}),), ((0, {"t": 0}),)]
        assert [ask.doubt for ask in desk.asked] == [None, None]

    appending(work)


def test_links_belong_to_the_packs_that_name_streams():
    async def work(appender, desk, watch, loop):
        desk.tenure.take(2)
        with turned(log_pack_entries=1):
            calls = [
                appender.append([b"x"], {}, streams, None) for streams in ((), ("a",), (), ("b",))
            ]
            assert await asyncio.gather(*calls) == [[100], [101], [102], [103]]
        assert [pack.links for pack in await packs(appender, 2, 6)] == [
            {},
            {"a": (0,)},
            {},
            {"b": (1,)},
        ]
        assert [pack.before for pack in await packs(appender, 2, 6)] == [5000, 5001, 5002, 5003]

    appending(work)


def test_what_is_appended_in_one_turn_is_asked_for_together_with_those_of_equal_time():
    async def work(appender, desk, watch, loop):
        calls = [appender.append([b"x"], {}, (), timeout) for timeout in (3, None, 3, 7, None)]
        assert desk.asked == []
        await asyncio.gather(*calls)
        assert [ask.counts for ask in desk.asked] == [(2,), (2,), (1,)]
        now, default = loop.time(), appender._tape.space.client.deadline(None)
        assert desk.deadlines == [now + 3, default, now + 7]
        desk.asked.clear()
        with turned(log_ask_entries=5):
            calls = [appender.append([b"x"] * n, {}, (), None) for n in (2, 3, 1, 4, 1, 9, 1)]
            await asyncio.gather(*calls)
        assert [ask.counts for ask in desk.asked] == [(5,), (5,), (1,), (9,), (1,)]
        desk.at_once = True
        assert await appender.append([b"x"], {}, (), None) == [126]
        assert len(desk.deadlines) == 8, "who has an answer at once does not wait"

    appending(work)


def test_what_is_too_large_is_refused_by_the_limit_as_it_is_now(monkeypatch):
    async def work(appender, desk, watch, loop):
        registers = appender._tape.space.client.registers
        room = registers.max_value - OVERHEAD_BYTES - ENTRY_BYTES
        for headers, streams in (
            ({}, ()),
            ({"k": "v" * 99}, ()),
            ({}, ("a", "b")),
            ({"k": ""}, ("s",)),
        ):
            extra = 0
            if headers or streams:
                extra = len(encode((headers, streams, streams))) + STREAM_BYTES * len(streams)
            large, given = bytes(room - extra), bytes(room - extra + 1)
            with pytest.raises(
                ValueTooLarge, match=f"of {len(given)} bytes.* {len(large)} at most"
            ):
                appender.append([b"small", given], headers, streams, None)
            [position] = await appender.append([large], headers, streams, None)
            assert desk.first == position + 1
        monkeypatch.setattr(type(registers), "max_value", 1000)
        await appender.append([b"x"], {}, (), None)
        with pytest.raises(ValueTooLarge, match=f" {1000 - OVERHEAD_BYTES - ENTRY_BYTES} at most"):
            appender.append([bytes(1000)], {}, (), None)
        monkeypatch.setattr(type(registers), "max_value", OVERHEAD_BYTES)
        await appender.append([b""], {}, (), None)
        with pytest.raises(ValueTooLarge, match=" 0 at most"):
            appender.append([b"x"], {}, (), None)
        with pytest.raises(UsageError, match="timeout"):
            appender.append([b""], {}, (), "soon")

    appending(work)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda given: Pong(),
        lambda given: msgspec.structs.replace(given, runs=()),
        lambda given: msgspec.structs.replace(given, links=()),
        lambda given: msgspec.structs.replace(given, links=({}, {})),
        lambda given: msgspec.structs.replace(given, runs=given.runs * 2),
    ],
)
def test_an_answer_that_is_no_such_positions_is_told(spoil):
    async def work(appender, desk, watch, loop):
        desk.spoil = spoil
        with pytest.raises(Unavailable, match="something else than positions"):
            await appender.append([b"x"], {}, ("s",), None)
        assert watch.counts() == {}
        desk.spoil = None
        assert await appender.append([b"x"], {}, ("s",), None) == [101], "and goes on"

    appending(work)


@pytest.mark.parametrize("error", [CaptureLost("lost"), AlreadyWritten("taken", b"other")])
def test_packs_that_lost_their_slots_go_elsewhere_and_those_that_did_not_stay(error):
    async def work(appender, desk, watch, loop):
        mine = {4}

        async def settle(slot, raw):
            asked.append((slot, read_pack(raw, slot).first))
            return slot in mine

        asked, appender._tape.settle = [], settle
        desk.tenure.take(1)
        refuse(watch, error, (2, 4, 5))
        with turned(log_pack_entries=2):
            calls = [appender.append([b"%d" % i] * 3, {}, (), None) for i in range(3)]
            got = await asyncio.gather(*calls)
        assert asked == [(2, 102), (4, 106), (5, 108)]
        assert got == [[100, 101, 109], [110, 104, 105], [106, 107, 111]]
        assert [ask.counts for ask in desk.asked] == [(2, 2, 2, 2, 1), (2, 1)]
        assert desk.asked[1].size == 3
        assert desk.asked[1].doubt == desk.tenure._now.fence
        assert appender.lost == 2
        assert loop.time() == PAUSE_MIN_S
        again = (await packs(appender, 6, 7))[0]
        assert (again.first, again.serial, again.bodies) == (109, 6, [b"0", b"1"])

    appending(work)


def test_who_loses_again_and_again_pauses_longer_up_to_a_limit():
    async def work(appender, desk, watch, loop):
        async def settle(slot, raw):
            times.append(loop.time())
            return False

        times, appender._tape.settle = [], settle
        refuse(watch, CaptureLost("lost"), range(SIZE), times=1)
        assert await appender.append([b"x"], {}, (), None) == [100 + SIZE]
        pauses = [PAUSE_MIN_S * 2**n for n in range(7)]
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert gaps == pytest.approx([min(PAUSE_MAX_S, pause) for pause in pauses])
        assert loop.time() - times[-1] == pytest.approx(PAUSE_MAX_S)
        assert appender.lost == SIZE

    appending(work)


def test_a_failed_write_fails_those_that_it_had_and_no_others():
    async def work(appender, desk, watch, loop):
        async def settle(slot, raw):
            return True

        appender._tape.settle = settle
        refuse(watch, Unavailable("no majority"), (1,))
        with turned(log_pack_entries=1):
            calls = [appender.append([b"x"], {}, (), None) for _ in range(3)]
            got = await asyncio.gather(*calls, return_exceptions=True)
        assert (got[0], got[2]) == ([100], [102])
        assert str(got[1]) == "no majority"
        assert len(desk.asked) == 1, "its outcome is unknown: it is not appended again"

    appending(work)


def test_packs_go_into_all_runs_that_were_given():
    async def work(appender, desk, watch, loop):
        desk.tenure.take(SIZE - 2)
        refuse(watch, CaptureLost("lost"), (1,))
        asked = []

        async def settle(slot, raw):
            asked.append(slot)
            return True

        appender._tape.settle = settle
        with turned(log_pack_entries=1):
            assert await appender.append([b"x"] * 5, {}, (), None) == [100, 101, 102, 103, 104]
        assert asked == [SIZE + 1]
        held = await appender._tape.read(SIZE - 2, SIZE + 3)
        assert [raw is None for raw in held] == [False, False, False, True, False]
        assert [read_pack(raw, 0).first for raw in held if raw] == [100, 101, 102, 104]

    appending(work)


def test_time_that_runs_out_is_told_by_the_one_who_knows_most():
    async def work(appender, desk, watch, loop):
        desk.delay_s = 2.0
        with pytest.raises(Unavailable, match="no time left to write"):
            await appender.append([b"x"], {}, (), 2.0)
        assert loop.time() == 2.0
        desk.delay_s = 2.0 + GRACE_S / 2
        with pytest.raises(Unavailable, match="no time left to write"):
            await appender.append([b"x"], {}, (), 2.0)
        began, desk.delay_s = loop.time(), 9.0
        with pytest.raises(Unavailable, match="not done in time"):
            await appender.append([b"x"], {}, (), 3.0)
        assert loop.time() == pytest.approx(began + 3.0 + GRACE_S)
        desk.delay_s = 1.0

        async def held_up(self, run, parcels, left):
            assert left == pytest.approx(2.0)
            raise Trimmed("gone")

        appender._write_run = held_up.__get__(appender)
        with pytest.raises(Unavailable, match="its register was trimmed meanwhile"):
            await appender.append([b"x"], {}, (), 3.0)

    appending(work)


def test_who_gives_up_waiting_disturbs_nobody():
    async def work(appender, desk, watch, loop):
        desk.delay_s = 1.0
        one, two = (appender.append([b"x"], {}, (), None) for _ in range(2))
        await asyncio.sleep(0.5)
        one.cancel()
        assert await two == [101]
        one, two = (appender.append([b"x"], {}, (), 0.5) for _ in range(2))
        await asyncio.sleep(0.1)
        one.cancel()
        with pytest.raises(Unavailable):
            await two

    appending(work)


def test_closing_tells_all_who_wait_what_is_known():
    async def work(appender, desk, watch, loop):
        desk.delay_s = 5.0
        under_way = appender.append([b"x"], {}, (), None)
        given_up = appender.append([b"x"], {}, (), None)
        await asyncio.sleep(1)
        given_up.cancel()
        waiting, dropped = (appender.append([b"x"], {}, (), None) for _ in range(2))
        dropped.cancel()
        await appender.close()
        assert loop.time() == 1.0
        assert "nothing was appended" in str(waiting.exception())
        assert "may be in it all the same" in str(under_way.exception())
        assert isinstance(under_way.exception(), Closed)
        with pytest.raises(Closed):
            appender.append([b"x"], {}, (), None)
        await asyncio.sleep(9)
        assert (desk.asked, watch.counts()) == ([], {})
        await appender.close()

    appending(work)
