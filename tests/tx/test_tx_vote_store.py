"""The vote store, in virtual time: what a vote costs, and which one stands."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter

import pytest
from tests.virtual import Watch, virtually

from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    ProtocolViolation,
    Trimmed,
    Unavailable,
    UsageError,
    WormError,
)
from wormspace.knobs import turned
from wormspace.runtime.retrying import PAUSE_S
from wormspace.space.segment import Segment
from wormspace.space.space import Space
from wormspace.tx import vote_store as module
from wormspace.tx.deciding import Vote, encode
from wormspace.tx.names import TxId
from wormspace.tx.vote_store import VoteStore

SIZE = 8
YES = Vote(True, ("a", "b"), "", 1.0, "a")
NO = Vote(False, ("a", "b"), "", 2.0, "somebody")


class Booth:
    """A vote store, the calls it makes, and what it heard."""

    def __init__(self, worm) -> None:
        self.worm, self.watch, self.heard = worm, Watch(worm), []
        self.vote_store = VoteStore(worm, "tx", lambda *what: self.heard.append(what))
        self.now = asyncio.get_running_loop().time

    def cast(self, number: int, vote=YES, *, manager="a", ahead=True, seconds=5.0, by="j"):
        """A vote on its way; what stands in the end, or the error."""
        end = asyncio.get_running_loop().create_future()

        def on_stands(standing: Vote | None, error: WormError | None) -> None:
            assert (standing is None) == (error is not None)
            end.set_result(standing or error)

        deadline = self.now() + seconds
        self.vote_store.cast(
            manager, TxId(by, number), vote, on_stands, ahead=ahead, deadline=deadline
        )
        return end

    async def read(self, number: int, manager: str = "a") -> Vote | None:
        return await self.vote_store.read(manager, TxId("j", number), deadline=self.now() + 5)

    async def refuse(self, number: int, vote: Vote = NO, seconds: float = 5.0) -> Vote:
        return await self.vote_store.refuse(
            "a", TxId("j", number), vote, deadline=self.now() + seconds
        )

    def captures(self, since: int = 0) -> list[tuple]:
        """The (space, segment, first, stop) of each capture of votes."""
        calls = [given for name, given in self.watch.calls[since:] if name == "capture"]
        return [
            (*segment_name, lo, hi)
            for segment_name, lo, hi, _ in calls
            if segment_name[0] != "tx" and hi <= SIZE
        ]


def voting(work, **knobs) -> None:
    """Run `work(booth)`, of a transaction space that is open."""

    async def run(worm) -> None:
        booth = Booth(worm)
        await booth.vote_store.open(booth.now() + 5)
        booth.watch.clear()
        before = asyncio.all_tasks()
        await work(booth)
        await booth.vote_store.close()
        assert asyncio.all_tasks() == before
        assert not booth.vote_store._tasks

    with turned(tx_segment_size=SIZE, **knobs):
        virtually(run)


@pytest.fixture
def runs(monkeypatch):
    """What is written together: (first offset, how many, seconds)."""
    written, write = [], Segment.write_range

    async def write_range(self, start, values, token, *, timeout):
        written.append((start, len(values), timeout))
        await write(self, start, values, token, timeout=timeout)

    monkeypatch.setattr(Segment, "write_range", write_range)
    return written


# ---------------------------------------------------------------- opening


def test_a_space_is_opened_once_for_all_and_not_before_it_is_needed() -> None:
    costs = []

    async def open_so_often(worm, times: int) -> None:
        booth = Booth(worm)
        for _ in range(2):
            assert await booth.vote_store.find(booth.now() + 5) is None
        assert (await booth.read(0), booth.vote_store.is_open) == (None, False)
        with pytest.raises(UsageError, match="'tx' is not open yet"):
            _ = booth.vote_store.home
        booth.watch.clear()
        homes = await asyncio.gather(
            *(booth.vote_store.open(booth.now() + 5) for _ in range(times))
        )
        costs.append(booth.watch.clear())
        assert homes == [booth.vote_store.home] * times
        assert await booth.vote_store.open(booth.now() + 5) is booth.vote_store.home
        assert await booth.vote_store.find(booth.now() + 5) is booth.vote_store.home
        other = VoteStore(worm, "tx", lambda *_: None)
        assert booth.watch.calls == []
        assert await other.find(booth.now() + 5) == booth.vote_store.home
        booth.watch.clear()
        assert await other.find(booth.now() + 5) is other.home
        assert booth.watch.calls == []

    for times in (1, 5):
        virtually(lambda worm, times=times: open_so_often(worm, times))
    assert costs[0] == costs[1]


def test_who_waits_for_a_space_waits_no_longer_than_it_may(monkeypatch) -> None:
    begun, opened = [], module.open_space

    async def slow(client, space, deadline):
        begun.append(deadline)
        await asyncio.sleep(3)
        if len(begun) == 1:
            raise Unavailable("no servers")
        return await opened(client, space, deadline)

    monkeypatch.setattr(module, "open_space", slow)

    async def work(worm) -> None:
        booth = Booth(worm)
        began = booth.now()
        hasty, first, second = (
            asyncio.ensure_future(booth.vote_store.open(began + s)) for s in (1, 10, 20)
        )
        with pytest.raises(Unavailable, match="'tx' could not be opened in time"):
            await hasty
        assert booth.now() == began + 1
        for one in (first, second):
            with pytest.raises(Unavailable, match="no servers"):
                await one
        assert (len(begun), booth.now()) == (1, began + 3)
        assert await booth.vote_store.open(began + 20) is booth.vote_store.home
        assert begun == [began + module.OPEN_S, began + 3 + module.OPEN_S]
        late = VoteStore(worm, "tx", lambda *_: None)
        waiting = asyncio.ensure_future(late.open(booth.now() + 9))
        await asyncio.sleep(1)
        await late.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    virtually(work)


# ---------------------------------------------------------------- voting


def test_votes_of_one_turn_that_stand_side_by_side_are_written_together(runs) -> None:
    async def work(booth: Booth) -> None:
        await booth.cast(4)
        runs.clear()
        votes = {n: Vote(True, ("a",), "", float(n), "a") for n in (5, 1, 0, 3, 7)}
        spawn, tasks = booth.vote_store._tasks.spawn, []
        booth.vote_store._tasks.spawn = lambda work: tasks.append(spawn(work))
        ends = [booth.cast(n, vote, seconds=1.0 + n) for n, vote in votes.items()]
        assert await asyncio.gather(*ends) == list(votes.values())
        assert runs == [(0, 2, 2.0), (3, 1, 4.0), (5, 1, 6.0), (7, 1, 8.0)]
        assert len(tasks) == len(runs)
        assert [await booth.read(n) for n in votes] == list(votes.values())
        assert await booth.read(2) is None

    voting(work)


def test_a_segment_is_captured_ahead_and_the_next_one_when_half_of_it_is_used() -> None:
    async def work(booth: Booth) -> None:
        assert await booth.cast(0) == YES
        assert booth.captures() == [("tx/a/j", 0, 0, SIZE)]
        for number in range(1, 2 * SIZE):
            booth.watch.clear()
            assert await booth.cast(number) == YES
            await asyncio.sleep(1)
            due = [("tx/a/j", number // SIZE + 1, 0, SIZE)] if number % SIZE == SIZE // 2 else []
            assert booth.captures() == due, number
            if not due:
                assert booth.watch.counts() == {"write": 1}
        assert await booth.cast(0, manager="b") == YES
        assert await booth.cast(0, by="k") == YES
        assert booth.captures()[-2:] == [("tx/b/j", 0, 0, SIZE), ("tx/a/k", 0, 0, SIZE)]

    voting(work)


def test_votes_that_wait_for_one_capture_share_it() -> None:
    async def work(booth: Booth) -> None:
        ends = [booth.cast(n) for n in (2, 0, 1)]
        await asyncio.gather(*ends)
        assert booth.captures() == [("tx/a/j", 0, 0, SIZE)]

    voting(work)


def test_a_register_is_captured_alone_where_that_is_asked_for() -> None:
    async def work(booth: Booth) -> None:
        for number in (3, 0, SIZE + 1):
            assert await booth.cast(number, ahead=False) == YES
            written = booth.watch.counts()["write"]
            assert await booth.cast(number, NO, ahead=False) == YES
            assert booth.watch.counts()["write"] == written
            assert await booth.read(number) == YES
        lone = [(0, 3), (0, 3), (0, 0), (0, 0), (1, 1), (1, 1)]
        assert booth.captures() == [("tx/a/j", s, at, at + 1) for s, at in lone]

    voting(work)


def test_the_vote_that_stands_is_told_whoever_was_quicker(runs) -> None:
    async def work(booth: Booth) -> None:
        assert await booth.refuse(1) == NO
        assert await booth.cast(0) == YES  # captures what is left
        assert await booth.cast(1) == NO
        assert await booth.refuse(3) == NO
        assert await booth.refuse(3, YES) == NO
        runs.clear()
        ends = [booth.cast(n) for n in (2, 3, 5)]
        assert await asyncio.gather(*ends) == [YES, NO, YES]
        assert [run[:2] for run in runs] == [(2, 2), (5, 1)]
        assert await booth.cast(5) == YES  # the same again
        assert await booth.cast(5, NO) == YES  # its capture wrote something else
        booth.watch.clear()
        assert await booth.cast(6) == YES
        assert booth.watch.clear()["write"] == 1

    voting(work)


def test_why_nobody_knows_which_vote_stands_is_told() -> None:
    async def work(booth: Booth) -> None:
        await booth.cast(0)

        def fail(name: str, given: tuple) -> None:
            if name == "write" and given[2] != 2:
                raise Unavailable(f"no servers for {given[2]}")

        booth.watch.before = fail
        ends = await asyncio.gather(*(booth.cast(n) for n in (1, 2, 3)))
        assert [str(end) for end in ends] == ["no servers for 1", str(YES), "no servers for 3"]
        booth.watch.before = None
        space = booth.worm.space("tx/a/j")
        await space.trim(0)
        for ahead in (True, False):
            assert isinstance(await booth.cast(3, ahead=ahead), Trimmed)
        assert isinstance(await booth.cast(2, ahead=False), Trimmed)

        async def whole(*given, **named):
            raise Unavailable("none at all")

        assert await booth.cast(SIZE) == YES
        held = booth.vote_store._held["a", "j", 1]
        held.segment.write_range = whole
        ends = await asyncio.gather(*(booth.cast(SIZE + n) for n in (1, 2)))
        assert [str(end) for end in ends] == ["none at all"] * 2

    voting(work)


def test_who_writes_for_another_tries_until_the_deadline_with_growing_pauses() -> None:
    class Dice(random.Random):
        pauses: list[float]

        def uniform(self, least: float, most: float) -> float:
            self.pauses.append(most)
            return most

    async def work(booth: Booth) -> None:
        booth.worm.rng = dice = Dice(0)
        left = [CaptureLost("quicker")] * 10

        def lose(name: str, given: tuple) -> None:
            if name == "write" and left:
                raise left.pop()

        await booth.vote_store.refuse("a", TxId("j", 1), NO, deadline=booth.now() + 5)
        booth.watch.before, dice.pauses = lose, []
        began = booth.now()
        assert await booth.refuse(0) == NO
        assert dice.pauses == [min(PAUSE_S[1], PAUSE_S[0] * 2**n) for n in range(10)]
        assert booth.now() - began == pytest.approx(sum(dice.pauses))
        left += [CaptureLost("quicker")] * 1000
        began, dice.pauses = booth.now(), []
        with pytest.raises(Unavailable, match=r"settling tx/a/j/0/2: other clients captured it"):
            await booth.refuse(2, seconds=3.0)
        assert booth.now() - began == pytest.approx(3.0)
        left[:] = [AlreadyWritten("there", encode(YES))]
        assert await booth.refuse(3) == YES
        assert await booth.refuse(1, YES) == NO

    voting(work)


def test_a_vote_is_read_where_there_is_one(runs) -> None:
    async def work(booth: Booth) -> None:
        for number in (0, SIZE):
            assert await booth.read(number) is None
        assert await booth.cast(SIZE) == YES
        assert [await booth.read(n) for n in (0, SIZE, SIZE + 1)] == [None, YES, None]
        booth.watch.clear()
        assert await booth.read(SIZE) == YES
        assert booth.watch.counts() == {"read_one": 1}
        assert booth.watch.calls[0][1][-1] == booth.now() + 5
        assert await booth.read(SIZE, "b") is None

    voting(work)


# ---------------------------------------------------------------- segments


def test_few_segments_are_kept_and_what_was_taken_first_goes_first() -> None:
    async def work(booth: Booth) -> None:
        managers = ("a", "b", "c")
        for manager in managers:
            await booth.cast(0, manager=manager)
        assert (
            list(booth.vote_store._held)
            == list(booth.vote_store._known)
            == [("b", "j", 0), ("c", "j", 0)]
        )
        booth.watch.clear()
        for manager in ("b", "c"):
            await booth.cast(1, manager=manager)
        assert booth.watch.clear() == {"write": 2}
        await booth.cast(1)
        assert booth.captures() == [("tx/a/j", 0, 0, SIZE)]
        assert (
            list(booth.vote_store._held)
            == list(booth.vote_store._known)
            == [("c", "j", 0), ("a", "j", 0)]
        )
        booth.vote_store.forget("c", "k", 0)
        booth.vote_store.forget("a", "j", 1)
        booth.watch.clear()
        await booth.cast(2)
        assert booth.watch.clear() == {"write": 1}
        booth.vote_store.forget("a", "j", 0)
        assert list(booth.vote_store._held) == list(booth.vote_store._known) == [("c", "j", 0)]
        await booth.cast(3)
        assert booth.captures() == [("tx/a/j", 0, 0, SIZE)]

    voting(work, tx_segments_held=2)


def test_a_segment_is_captured_once_however_often_it_is_prepared() -> None:
    async def work(booth: Booth) -> None:
        for _ in range(3):
            booth.vote_store.prepare_segment("a", "j", 0)
        await asyncio.sleep(1)
        for number in (0, 1, 1):
            booth.vote_store.prepare_segment("a", "j", number)
        await asyncio.sleep(1)
        assert booth.captures() == [("tx/a/j", n, 0, SIZE) for n in (0, 1)]
        assert booth.vote_store._capturing == {}

    voting(work)


def test_a_capture_that_takes_too_long_is_waited_for_no_longer_than_may_be(monkeypatch) -> None:
    asked = []

    async def slow(self, *offset, timeout):
        asked.append((offset, timeout))
        await asyncio.sleep(timeout)
        raise Unavailable("too slow")

    async def work(booth: Booth) -> None:
        monkeypatch.setattr(Segment, "capture", slow)
        began = booth.now()
        hasty, other = booth.cast(0, seconds=1.0), booth.cast(1, seconds=60.0)
        assert "a's vote segment could not be captured in time" in str(await hasty)
        assert booth.now() == began + 1
        assert str(await other) == "too slow"
        assert (asked, booth.now()) == ([((), 10.0)], began + 10)
        assert booth.vote_store._capturing == {}

    voting(work)


def test_a_vote_space_that_is_something_else_takes_no_votes() -> None:
    async def work(booth: Booth) -> None:
        await booth.worm.space("tx/a/j").alloc(booth.vote_store.home.stamp, SIZE + 1)
        for ahead in (True, False):
            assert isinstance(await booth.cast(0, ahead=ahead), ProtocolViolation)
        with pytest.raises(ProtocolViolation, match="no vote segment"):
            await booth.read(0)

    voting(work)


@pytest.mark.parametrize("trimmed", [True, False])
def test_a_capture_ahead_that_fails_is_done_again_when_it_is_needed(trimmed, caplog) -> None:
    async def work(booth: Booth) -> None:
        await booth.cast(0)
        if trimmed:
            await booth.worm.space("tx/a/j").trim_prefix(1)
            booth.vote_store.forget("a", "j", 0)
        else:
            await booth.worm.space("tx/a/k").alloc(b"else", SIZE)
        booth.vote_store.prepare_segment("a", "j" if trimmed else "k", 0)
        await asyncio.sleep(1)
        assert booth.vote_store._capturing == {}
        assert (await booth.cast(SIZE)) == YES

    with caplog.at_level(logging.INFO):
        voting(work)
    assert ("a vote segment was trimmed before it was used" in caplog.text) is trimmed
    assert "never retrieved" not in caplog.text


# ---------------------------------------------------------------- listening


def test_votes_are_heard_from_a_transactions_segment_on() -> None:
    async def work(booth: Booth) -> None:
        await booth.cast(0)
        booth.vote_store.follow("a", TxId("j", SIZE + 1))
        await asyncio.sleep(1)
        for number in (1, SIZE, SIZE + 2, 2 * SIZE):
            await booth.cast(number)
        await booth.cast(SIZE + 2, manager="b")
        await asyncio.sleep(1)
        heard = [(TxId("j", n), "a", YES) for n in (SIZE, SIZE + 2, 2 * SIZE)]
        assert booth.heard == heard
        booth.vote_store.follow("a", TxId("j", 0))  # it is heard already
        await booth.cast(2 * SIZE + 1)
        await asyncio.sleep(1)
        assert booth.heard == [*heard, (TxId("j", 2 * SIZE + 1), "a", YES)]

    voting(work)


def test_few_are_heard_and_who_was_needed_longest_ago_is_let_go() -> None:
    async def work(booth: Booth) -> None:
        before = len(asyncio.all_tasks())
        for manager in "abac":
            booth.vote_store.follow(manager, TxId("j", 0))
            await asyncio.sleep(1)
        assert len(asyncio.all_tasks()) == before + 2
        for manager in "abc":
            await booth.cast(0, manager=manager)
        await asyncio.sleep(1)
        assert Counter(manager for _, manager, _ in booth.heard) == {"a": 1, "c": 1}
        for manager in "de":
            booth.vote_store.follow(manager, TxId("j", 0))
            await asyncio.sleep(1)
        assert len(asyncio.all_tasks()) == before + 2

    voting(work, tx_spaces_followed=2)


def test_who_hears_no_longer_says_so_and_begins_again(monkeypatch, caplog) -> None:
    listen, failing = Space.listen, [Unavailable("no servers")]

    def failing_once(self, start):
        if failing:
            raise failing.pop()
        return listen(self, start)

    monkeypatch.setattr(Space, "listen", failing_once)

    async def work(booth: Booth) -> None:
        for _ in range(2):
            booth.vote_store.follow("a", TxId("j", 0))
            await asyncio.sleep(1)
        await booth.cast(0)
        await asyncio.sleep(1)
        assert booth.heard == [(TxId("j", 0), "a", YES)]

    with caplog.at_level(logging.INFO):
        voting(work)
    assert "no longer hears a's votes: no servers" in caplog.text


def test_a_vote_store_that_is_closed_votes_and_captures_no_more() -> None:
    async def work(booth: Booth) -> None:
        booth.vote_store.follow("a", TxId("j", 0))
        booth.vote_store.prepare_segment("b", "j", 0)
        ends = [booth.cast(0), booth.cast(0, ahead=False, manager="c")]
        await asyncio.sleep(0)
        await booth.vote_store.close()
        booth.watch.clear()
        await asyncio.sleep(10)
        assert (booth.watch.calls, [end.done() for end in ends]) == ([], [False, False])

    voting(work)
