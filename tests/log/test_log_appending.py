"""The appender, given positions by a made-up position source: what it asks, batches, writes, and
tells.
"""

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
    STREAM_BYTES,
    Appender,
    _AppendRequest,
    _drafts,
)
from wormspace.log.messages import Given, Pong
from wormspace.log.records import Group, encode, read_batch
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.spaces import ENTRIES
from wormspace.log.term import Term
from wormspace.runtime.retrying import PAUSE_S

SIZE = 8
WRITER = b"appender"
NONE = ()


class Longest(random.Random):
    """Each pause is as long as it may be."""

    def uniform(self, a, b):
        assert a == 0
        return b


class PositionSource:
    """Hands out what a term has, and notes each question and its deadline.

    Attributes:
        at_once: whether it answers without being awaited.
        delay_s: how long it takes if not.
        spoil: makes something else of each answer.
    """

    def __init__(self, term, first=100, before=5000):
        self.term, self.first, self.before = term, first, before
        self.asked, self.deadlines = [], []
        self.at_once, self.delay_s, self.spoil = False, 0.0, None

    def give(self, ask):
        self.asked.append(ask)
        first, before = self.first, self.before
        self.first += sum(ask.counts)
        self.before += ask.size
        links = tuple(dict.fromkeys(names, (i,)) for i, (_, names) in enumerate(ask.named))
        given = Given(tuple(self.term.take(len(ask.counts))), first, before, links)
        return self.spoil(given) if self.spoil else given

    def give_now(self, ask):
        return self.give(ask) if self.at_once else None

    async def ask(self, ask, deadline):
        self.deadlines.append(deadline)
        await asyncio.sleep(self.delay_s)
        return self.give(ask)


def appending(work):
    """Runs `work(appender, sequencing, watch, loop)` in virtual time; there is room for 16
    batches.
    """

    async def main(worm):
        worm.rng = Longest()
        segmented_log = SegmentedLog(worm.space("log"), SIZE, ENTRIES)
        term = Term(segmented_log)
        await term.acquire()
        await term.extend()
        sequencing = PositionSource(term)
        appender = Appender(segmented_log, sequencing, WRITER, lambda: 12.3456)
        await work(appender, sequencing, Watch(worm), asyncio.get_running_loop())
        await asyncio.sleep(1)
        assert not appender._working, "nothing goes on"

    virtually(main)


async def batches(appender, start, stop):
    """What is in these slots."""
    values = await appender._segmented_log.read(start, stop)
    return [read_batch(raw, slot) for slot, raw in enumerate(values, start)]


def refuse(watch, error, offsets, times=1):
    """The next `times` writes there are refused."""
    left = dict.fromkeys(offsets, times)

    def look(name, given):
        if name == "write" and left.get(given[2], 0):
            left[given[2]] -= 1
            raise error

    watch.before = look


def naive_drafts(parts, largest, batch_bytes, most):
    """Entries by batch: (request, index) of each."""
    batches, room = [[]], min(batch_bytes, largest)
    left = room
    for request, start, stop in parts:
        left -= request.extra
        for i in range(start, stop):
            need = len(request.bodies[i]) + ENTRY_BYTES
            if batches[-1] and (left < need or len(batches[-1]) >= most):
                batches.append([])
                left = room - request.extra
            batches[-1].append((request, i))
            left -= need
    return batches


def request_of(rng, loop):
    streams = tuple(rng.sample(("a", "b", "c"), rng.choice((0, 0, 1, 2))))
    headers = rng.choice(({}, {}, {"key": "value"}, {"a": "b", "cd": ""}))
    bodies = [bytes(rng.randrange(30)) for _ in range(rng.randrange(1, 9))]
    extra = 20 if streams or headers else 0
    return _AppendRequest(bodies, headers, streams, extra, loop.create_future())


def test_entries_share_batches_as_far_as_there_is_room():
    loop = asyncio.new_event_loop()
    for seed in range(40):
        rng = random.Random(seed)
        requests = [request_of(rng, loop) for _ in range(rng.randrange(1, 5))]
        parts = [(w, rng.randrange(len(w.bodies)), len(w.bodies)) for w in requests]
        batch_bytes, most, largest = rng.choice((40, 90, 500)), rng.choice((1, 3, 99)), 80
        with turned(log_batch_bytes=batch_bytes, log_batch_entries=most):
            drafts = _drafts(parts, largest)
        expected = naive_drafts(parts, largest, batch_bytes, most)
        assert [draft.count for draft in drafts] == list(map(len, expected))
        for draft, entries in zip(drafts, expected, strict=True):
            assert draft.bodies() == [request.bodies[i] for request, i in entries]
            headers = [len(k) + len(v) for w, _ in entries for k, v in w.headers.items()]
            assert draft.size == sum(map(len, draft.bodies())) + sum(headers)
            assert draft.last_of_streams() == {
                name: i for i, (request, _) in enumerate(entries) for name in request.streams
            }
            groups = [g for g in draft.groups() for _ in range(g.count)]
            if any(request.extra for request, _ in entries):
                assert [(g.headers, g.streams) for g in groups] == [
                    (request.headers, request.streams) for request, _ in entries
                ]
            else:
                assert groups == []
            draft.first = 1000 * (1 + drafts.index(draft))
            draft.placed()
        for request, start, stop in parts:
            there = [
                1000 * (1 + n) + k
                for n, entries in enumerate(expected)
                for k, (its, _) in enumerate(entries)
                if its is request
            ]
            assert request.positions[start:stop] == there
            assert request.missing == start
            assert request.future.done() == (start == 0)
    loop.close()


def test_a_batch_says_what_its_entries_are_and_whose():
    async def work(appender, sequencing, watch, loop):
        sequencing.term.take(1)
        a = appender.append([b"one", b"two"], {"k": "v"}, ("s", "t"), None)
        b = appender.append([b"three"], {}, (), None)
        assert (await a, await b) == ([100, 101], [102])
        assert await appender.append([b"four"], {}, ("t",), None) == [103]
        first, second = await batches(appender, 1, 3)
        assert (first.first, first.before, second.first, second.before) == (100, 5000, 103, 5015)
        assert (first.writer, first.serial, second.serial) == (WRITER, 1, 2)
        assert first.time_ms == second.time_ms == 12345
        assert first.bodies == [b"one", b"two", b"three"]
        assert first.groups == (Group(2, {"k": "v"}, ("s", "t")), Group(1, {}, ()))
        assert first.links == {"s": (0,), "t": (0,)}
        assert [ask.counts for ask in sequencing.asked] == [(3,), (1,)]
        assert [ask.size for ask in sequencing.asked] == [15, 4], "of headers, for each entry"
        assert [ask.named for ask in sequencing.asked] == [
            ((0, {"s": 1, "t": 1}),),
            ((0, {"t": 0}),),
        ]
        assert [ask.doubt for ask in sequencing.asked] == [None, None]

    appending(work)


def test_links_belong_to_the_batches_that_name_streams():
    async def work(appender, sequencing, watch, loop):
        sequencing.term.take(2)
        with turned(log_batch_entries=1):
            calls = [
                appender.append([b"x"], {}, streams, None) for streams in ((), ("a",), (), ("b",))
            ]
            assert await asyncio.gather(*calls) == [[100], [101], [102], [103]]
        assert [batch.links for batch in await batches(appender, 2, 6)] == [
            {},
            {"a": (0,)},
            {},
            {"b": (1,)},
        ]
        assert [batch.before for batch in await batches(appender, 2, 6)] == [5000, 5001, 5002, 5003]

    appending(work)


def test_what_is_appended_in_one_turn_is_asked_for_together_with_those_of_equal_time():
    async def work(appender, sequencing, watch, loop):
        calls = [appender.append([b"x"], {}, (), timeout) for timeout in (3, None, 3, 7, None)]
        assert sequencing.asked == []
        await asyncio.gather(*calls)
        assert [ask.counts for ask in sequencing.asked] == [(2,), (2,), (1,)]
        now, default = loop.time(), appender._segmented_log.space.client.deadline(None)
        assert sequencing.deadlines == [now + 3, default, now + 7]
        sequencing.asked.clear()
        with turned(log_ask_entries=5):
            calls = [appender.append([b"x"] * n, {}, (), None) for n in (2, 3, 1, 4, 1, 9, 1)]
            await asyncio.gather(*calls)
        assert [ask.counts for ask in sequencing.asked] == [(5,), (5,), (1,), (9,), (1,)]
        sequencing.at_once = True
        assert await appender.append([b"x"], {}, (), None) == [126]
        assert len(sequencing.deadlines) == 8, "who has an answer at once does not wait"

    appending(work)


def test_what_is_too_large_is_refused_by_the_limit_as_it_is_now(monkeypatch):
    async def work(appender, sequencing, watch, loop):
        registers = appender._segmented_log.space.client.registers
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
            assert sequencing.first == position + 1
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


def test_registers_that_raise_when_a_turn_is_over_leave_no_append_waiting(monkeypatch):
    def raising(registers):
        raise OSError("whatever stands behind these registers")

    async def work(appender, sequencing, watch, loop):
        registers = appender._segmented_log.space.client.registers
        monkeypatch.setattr(type(registers), "max_value", property(raising))
        waiting = [appender.append([b"x"], {}, (), timeout) for timeout in (None, 1, 2, 1)]
        for told in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 1):
            assert isinstance(told, OSError)
        monkeypatch.undo()
        assert await appender.append([b"y"], {}, (), None) == [100]

    appending(work)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda given: Pong(),
        lambda given: msgspec.structs.replace(given, ranges=()),
        lambda given: msgspec.structs.replace(given, links=()),
        lambda given: msgspec.structs.replace(given, links=({}, {})),
        lambda given: msgspec.structs.replace(given, ranges=given.ranges * 2),
    ],
)
def test_an_answer_that_is_no_such_positions_is_told(spoil):
    async def work(appender, sequencing, watch, loop):
        sequencing.spoil = spoil
        with pytest.raises(Unavailable, match="something else than positions"):
            await appender.append([b"x"], {}, ("s",), None)
        assert watch.counts() == {}
        sequencing.spoil = None
        assert await appender.append([b"x"], {}, ("s",), None) == [101], "and goes on"

    appending(work)


@pytest.mark.parametrize("error", [CaptureLost("lost"), AlreadyWritten("taken", b"other")])
def test_batches_that_lost_their_slots_go_elsewhere_and_those_that_did_not_stay(error):
    async def work(appender, sequencing, watch, loop):
        mine = {4}

        async def settle(slot, raw):
            asked.append((slot, read_batch(raw, slot).first))
            return slot in mine

        asked, appender._segmented_log.settle = [], settle
        sequencing.term.take(1)
        refuse(watch, error, (2, 4, 5))
        with turned(log_batch_entries=2):
            calls = [appender.append([b"%d" % i] * 3, {}, (), None) for i in range(3)]
            got = await asyncio.gather(*calls)
        assert asked == [(2, 102), (4, 106), (5, 108)]
        assert got == [[100, 101, 109], [110, 104, 105], [106, 107, 111]]
        assert [ask.counts for ask in sequencing.asked] == [(2, 2, 2, 2, 1), (2, 1)]
        assert sequencing.asked[1].size == 3
        assert sequencing.asked[1].doubt == sequencing.term._now.fence
        assert appender.lost == 2
        assert loop.time() == PAUSE_S[0]
        again = (await batches(appender, 6, 7))[0]
        assert (again.first, again.serial, again.bodies) == (109, 6, [b"0", b"1"])

    appending(work)


def test_who_loses_again_and_again_pauses_longer_up_to_a_limit():
    async def work(appender, sequencing, watch, loop):
        async def settle(slot, raw):
            times.append(loop.time())
            return False

        times, appender._segmented_log.settle = [], settle
        refuse(watch, CaptureLost("lost"), range(SIZE), times=1)
        assert await appender.append([b"x"], {}, (), None) == [100 + SIZE]
        pauses = [PAUSE_S[0] * 2**n for n in range(7)]
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert gaps == pytest.approx([min(PAUSE_S[1], pause) for pause in pauses])
        assert loop.time() - times[-1] == pytest.approx(PAUSE_S[1])
        assert appender.lost == SIZE

    appending(work)


def test_a_failed_write_fails_those_that_it_had_and_no_others():
    async def work(appender, sequencing, watch, loop):
        async def settle(slot, raw):
            return True

        appender._segmented_log.settle = settle
        refuse(watch, Unavailable("no majority"), (1,))
        with turned(log_batch_entries=1):
            calls = [appender.append([b"x"], {}, (), None) for _ in range(3)]
            got = await asyncio.gather(*calls, return_exceptions=True)
        assert (got[0], got[2]) == ([100], [102])
        assert str(got[1]) == "no majority"
        assert len(sequencing.asked) == 1, "its outcome is unknown: it is not appended again"

    appending(work)


def test_batches_go_into_all_ranges_that_were_given():
    async def work(appender, sequencing, watch, loop):
        sequencing.term.take(SIZE - 2)
        refuse(watch, CaptureLost("lost"), (1,))
        asked = []

        async def settle(slot, raw):
            asked.append(slot)
            return True

        appender._segmented_log.settle = settle
        with turned(log_batch_entries=1):
            assert await appender.append([b"x"] * 5, {}, (), None) == [100, 101, 102, 103, 104]
        assert asked == [SIZE + 1]
        held = await appender._segmented_log.read(SIZE - 2, SIZE + 3)
        assert [raw is None for raw in held] == [False, False, False, True, False]
        assert [read_batch(raw, 0).first for raw in held if raw] == [100, 101, 102, 104]

    appending(work)


def test_time_that_ranges_out_is_told_by_the_one_who_knows_most():
    async def work(appender, sequencing, watch, loop):
        sequencing.delay_s = 2.0
        with pytest.raises(Unavailable, match="no time left to write"):
            await appender.append([b"x"], {}, (), 2.0)
        assert loop.time() == 2.0
        sequencing.delay_s = 2.0 + GRACE_S / 2
        with pytest.raises(Unavailable, match="no time left to write"):
            await appender.append([b"x"], {}, (), 2.0)
        began, sequencing.delay_s = loop.time(), 9.0
        with pytest.raises(Unavailable, match="not done in time"):
            await appender.append([b"x"], {}, (), 3.0)
        assert loop.time() == pytest.approx(began + 3.0 + GRACE_S)
        sequencing.delay_s = 1.0

        async def held_up(self, run, drafts, left):
            assert left == pytest.approx(2.0)
            raise Trimmed("gone")

        appender._write_reserved = held_up.__get__(appender)
        with pytest.raises(Unavailable, match="its register was trimmed meanwhile"):
            await appender.append([b"x"], {}, (), 3.0)

    appending(work)


def test_who_gives_up_waiting_disturbs_nobody():
    async def work(appender, sequencing, watch, loop):
        sequencing.delay_s = 1.0
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
    async def work(appender, sequencing, watch, loop):
        sequencing.delay_s = 5.0
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
        assert (sequencing.asked, watch.counts()) == ([], {})
        await appender.close()

    appending(work)
