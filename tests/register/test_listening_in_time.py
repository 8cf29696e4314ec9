"""What a listener does of itself as time passes: read, wait, deliver, say `Gap`; to the moment."""

from __future__ import annotations

import asyncio

import pytest
from tests.register.played import Played, now

from wires import simulated
from wormspace.errors import Refused, Trimmed, Unavailable
from wormspace.knobs import turned
from wormspace.paxos.messages import Done
from wormspace.registers.interface import Gap, RegistersTrimmed, Wrote
from wormspace.registers.paxos.listening import PartitionListener
from wormspace.wire.messages import (
    ONE_WAY,
    Accepted,
    Failed,
    Lagging,
    Listen,
    Metrics,
    TrimNotice,
    Unlisten,
)

NUMBER = 7
"""The segment of all events here: no offset is so large, so that the two are not mixed up."""


class Listener:
    """A subscription to played servers.

    Attributes:
        heard: its events with their moments since it began, a register as its offset.
        read: the registers that it read, with their moments.
        values: by offset, what reading finds: a value, an error, or nothing; after `delay`.
    """

    def __init__(self, size: int = 3, streams: tuple[int, ...] | None = None) -> None:
        self.of, self.began = Played(size), now()
        self.heard: list[tuple[float, object]] = []
        self.read: list[tuple[float, int]] = []
        self.values: dict[int, object] = {}
        self.delay = 0.0
        self.failures: list[Exception] = []
        self.one = PartitionListener(
            self.of, "s", 0, 10, self._read_one, self._hear, self.failures.append
        )
        for server in range(size) if streams is None else streams:
            self.one.on_message(server, Done())

    def at(self) -> float:
        return round(now() - self.began, 3)

    def _hear(self, event) -> None:
        if isinstance(event, Wrote):
            assert (event.space, event.number) in {("s", NUMBER), ("s", NUMBER + 1)}
            assert event.value == self.values.get(event.offset, b"%d" % event.offset)
        self.heard.append((self.at(), event.offset if isinstance(event, Wrote) else event))

    async def _read_one(self, segment_name, offset: int):
        assert segment_name == ("s", NUMBER)
        self.read.append((self.at(), offset))
        value = self.values.get(offset)
        await asyncio.sleep(self.delay)
        if isinstance(value, Exception):
            raise value
        return value

    def accept(
        self, server: int, *offsets: int, ballot: bytes = b"b" * 16, number: int = NUMBER
    ) -> None:
        values = [b"%d" % offset for offset in offsets]
        self.one.on_message(server, Accepted("s", number, ballot, list(offsets), values))

    def news(self) -> list[tuple[float, object]]:
        """What was heard since the last look."""
        heard, self.heard = self.heard, []
        return heard


def test_a_majority_is_enough_after_a_moment_and_a_server_without_a_stream_is_a_gap():
    async def work():
        listener = Listener(streams=(0, 2))
        listener.accept(0, 1)
        listener.accept(2, 1)
        assert listener.news() == []
        await asyncio.sleep(5)
        assert listener.news() == [(0.1, Gap()), (0.1, 1), (2.1, Gap()), (4.1, Gap())]
        listener.one.on_message(1, Done())
        await asyncio.sleep(5)
        assert listener.news() == [(5.0, Gap())]
        listener.one.close()
        alone = Listener(streams=(1,))
        await asyncio.sleep(3)
        assert alone.news() == []
        alone.one.close()

    simulated(work)


def test_a_server_that_is_down_is_not_waited_for():
    async def work():
        listener = Listener(streams=())
        listener.one.on_message(0, Done())
        assert listener.news() == []
        listener.of.cut(1)
        assert listener.news() == []
        listener.one.on_message(2, Done())
        assert listener.news() == [(0.0, Gap())]
        await asyncio.sleep(3)
        assert listener.news() == [], "nothing that was said to have begun was lost"
        listener.one.close()

    simulated(work)


def test_of_a_stream_that_comes_and_goes_a_gap_is_said_when_it_is_back_and_every_two_seconds():
    async def work():
        listener = Listener()
        assert listener.news() == [(0.0, Gap())]
        await asyncio.sleep(0.95)
        listener.of.cut(1)
        await asyncio.sleep(3)
        assert listener.news() == [(2.0, Gap())]
        listener.of.mend(1)
        listener.one.on_message(1, Done())
        assert listener.news() == [(3.95, Gap())]
        await asyncio.sleep(0.1)
        listener.of.cut(1)
        listener.of.mend(1)
        listener.one.on_message(1, Done())
        assert listener.news() == [(4.05, Gap())]
        await asyncio.sleep(5)
        assert listener.news() == []
        for server in (0, 1):
            listener.of.cut(server)
        await asyncio.sleep(5)
        assert listener.news() == [], "nothing comes any more: there is no use in reading"
        listener.of.mend(0)
        listener.accept(0, 5)
        listener.one.on_message(0, Done())
        assert listener.news() == [(14.05, Gap())]
        listener.one.close()

    simulated(work)


def test_what_one_server_reports_is_read_after_a_moment_and_told():
    async def work():
        listener = Listener()
        await asyncio.sleep(0.05)
        listener.values[1] = b"as read"
        listener.accept(0, 1)
        await asyncio.sleep(0.04)  # at 0.1 it is too young
        listener.news()
        await asyncio.sleep(0.3)
        assert listener.read == [(0.2, 1)]
        assert listener.news() == [(0.2, 1)]
        listener.accept(1, 1)
        await asyncio.sleep(1)
        assert listener.news() == []
        assert len(listener.read) == 1
        listener.one.close()

    simulated(work)


def test_a_register_that_was_read_comes_after_what_stands_before_it_where_it_was_reported():
    async def work():
        listener = Listener()
        listener.values.update({1: b"1", 2: b"2"})
        listener.delay = 0.05
        listener.accept(0, 1, 2)
        listener.news()
        await asyncio.sleep(0.12)
        assert listener.read == [(0.1, 1), (0.1, 2)]
        listener.delay = 0.0
        await asyncio.sleep(0.1)
        assert listener.news() == [(0.15, 1), (0.15, 2)]
        listener.one.close()

    simulated(work)


def test_what_is_empty_is_not_read_again_until_it_is_reported_again_or_holds_up_another():
    async def work():
        listener = Listener()
        listener.accept(0, 1)
        await asyncio.sleep(1.05)
        assert listener.read == [(0.1, 1)]
        assert not listener.one.is_coming(NUMBER, 1), "whoever reads it found it empty"
        listener.news()
        for server in (1, 2):
            listener.accept(server, 2)
        listener.accept(0, 2)  # behind the empty one
        assert listener.news() == [(1.05, 2)], "two streams have it at their heads"
        listener.accept(0, 3)
        listener.accept(1, 3)
        assert listener.news() == []
        await asyncio.sleep(0.35)
        assert listener.read[1:] == [(1.2, 1)]
        assert listener.news() == [(1.3, 3)]
        listener.values[1] = b"after all"
        listener.accept(1, 1, ballot=b"2" * 16)
        assert listener.one.is_coming(NUMBER, 1)
        await asyncio.sleep(0.05)
        assert listener.news() == [(1.4, 1)]
        listener.one.close()

    simulated(work)


@pytest.mark.parametrize("size", [3, 5])
def test_a_decided_register_does_not_wait_for_a_server_that_never_accepts_it(size):
    async def work():
        listener = Listener(size)
        listener.news()
        await asyncio.sleep(0.01)
        listener.accept(0, 1)  # nobody decides it
        for server in range(size // 2 + 1):
            listener.accept(server, 2)
        assert listener.news() == []
        await asyncio.sleep(0.5)
        assert [offset for _, offset in listener.news()] == [2]
        listener.one.close()

    simulated(work)


def test_what_cannot_be_read_is_read_again_at_the_next_look():
    async def work():
        listener = Listener()
        listener.values[1] = Unavailable("nobody is there")
        listener.accept(0, 1)
        await asyncio.sleep(0.35)
        assert [at for at, _ in listener.read] == [0.1, 0.2, 0.3]
        assert listener.one.is_coming(NUMBER, 1)
        listener.values[1] = b"at last"
        await asyncio.sleep(0.1)
        assert listener.news() == [(0.0, Gap()), (0.4, 1)]
        listener.one.close()

    simulated(work)


def test_a_register_is_read_by_one_reader_and_what_is_reported_meanwhile_counts():
    async def work():
        listener = Listener()
        listener.delay = 0.35
        listener.news()
        listener.accept(0, 1, ballot=b"1" * 16)
        await asyncio.sleep(0.3)
        assert listener.read == [(0.1, 1)]
        listener.accept(1, 1, ballot=b"2" * 16)
        await asyncio.sleep(0.3)
        assert listener.read == [(0.1, 1), (0.5, 1)], "the first reading came before the report"
        assert listener.one.is_coming(NUMBER, 1)
        await asyncio.sleep(0.4)
        assert not listener.one.is_coming(NUMBER, 1)
        assert listener.news() == []
        listener.one.close()

    simulated(work)


def test_so_many_are_read_at_a_time_and_the_others_in_their_turn():
    async def work():
        with turned(registers_reading_late=2):
            listener = Listener()
            listener.delay = 0.05
            listener.values.update({n: b"%d" % n for n in range(5)})
            listener.accept(0, 0, 1, 2, 3, 4)
            await asyncio.sleep(0.5)
            assert listener.read == [(0.1, 0), (0.1, 1), (0.2, 2), (0.2, 3), (0.3, 4)]
            assert [offset for _, offset in listener.news()[1:]] == [0, 1, 2, 3, 4]
            listener.one.close()

    simulated(work)


def test_a_register_of_a_trimmed_segment_holds_up_nothing():
    async def work():
        listener = Listener()
        listener.values[1] = Trimmed("gone")
        listener.accept(0, 1, 2)
        listener.accept(1, 2)
        assert listener.news() == [(0.0, Gap())]
        await asyncio.sleep(0.15)
        assert listener.news() == [(0.1, 2)]
        assert not listener.one.is_coming(NUMBER, 1)
        listener.one.close()

    simulated(work)


def test_a_trim_is_told_and_drops_what_is_on_its_way():
    async def work():
        listener = Listener()
        listener.accept(0, 1)
        listener.accept(1, 1)
        listener.accept(0, 2, 3)
        listener.accept(1, 3)
        assert listener.news() == [(0.0, Gap()), (0.0, 1)]
        assert list(listener.one._delivered) == [NUMBER]
        for server in (0, 1):
            listener.accept(server, 1, number=NUMBER + 1)
        listener.news()
        listener.one.leave(NUMBER + 1, NUMBER + 2)
        assert list(listener.one._delivered) == [NUMBER], "what was left is forgotten"
        listener.one.on_message(2, TrimNotice("s", NUMBER + 1, 9))
        assert listener.one.is_coming(NUMBER, 2)
        listener.one.on_message(2, TrimNotice("s", 3, NUMBER + 1))
        dropped = [
            (0.0, RegistersTrimmed("s", NUMBER + 1, 9)),
            (0.0, RegistersTrimmed("s", 3, NUMBER + 1)),
        ]
        assert listener.news() == dropped
        assert not listener.one.is_coming(NUMBER, 2)
        assert not listener.one._delivered
        assert not listener.one._votes
        await asyncio.sleep(1)
        assert listener.read == []
        listener.one.close()

    simulated(work)


def test_who_ends_a_subscription_tells_every_server_and_hears_no_more():
    async def work():
        listener = Listener()
        listener.delay = 0.2
        listener.values[1] = b"1"
        listener.accept(0, 1)
        await asyncio.sleep(0.15)
        assert len(listener.read) == 1
        for link in listener.of.links:
            [(_, _, message)] = link.posted
            assert message == Listen("s", 0, 10, message.values)
            link.posted.clear()
        id_ = listener.one._id
        listener.one.cancel(ValueError())
        assert listener.of.is_idle
        assert listener.one._timer.cancelled(), "or it would look for ever"
        listener.one.close()
        assert [[post[1:] for post in link.posted] for link in listener.of.links] == [
            [(ONE_WAY, Unlisten(id_))]
        ] * 3
        listener.news()
        await asyncio.sleep(9)
        assert listener.news() == []
        assert len(listener.read) == 1

    simulated(work)


def test_another_server_sends_values_when_one_that_did_is_lost_and_at_no_other_time():
    async def work():
        listener = Listener(5)

        def asked() -> list[list[bool]]:
            """Of each server, whether it was asked for values, and for news alone."""
            posts = [[m.values for _, _, m in link.posted] for link in listener.of.links]
            for link in listener.of.links:
                link.posted.clear()
            return posts

        first = asked()
        assert sorted(first) == [[False]] * 2 + [[True]] * 3
        a, b = [i for i in range(5) if first[i] == [True]][:2]
        c, d = [i for i in range(5) if first[i] == [False]]
        for lost, now_sends in ((c, None), (a, d), (b, None)):
            listener.of.cut(lost)
            assert asked() == [[True] if i == now_sends else [] for i in range(5)]
        listener.one.close()

    simulated(work)


def test_a_server_that_ended_the_stream_is_asked_for_a_new_one_and_may_refuse_it():
    async def work():
        listener = Listener()
        for link in listener.of.links:
            link.posted.clear()
        listener.news()
        listener.one.on_message(1, Lagging())
        assert [len(link.posted) for link in listener.of.links] == [1, 1, 0], "0 sends the values"
        assert listener.of.links[0].posted[0][2].values
        assert not listener.of.links[1].posted[0][2].values
        listener.one.on_message(1, Done())
        assert listener.news() == [(0.0, Gap())]
        listener.one.on_message(0, Failed("too-many", "enough"))
        listener.one.on_message(0, Done())  # it has room again
        listener.one.on_message(1, Failed("too-many", "enough"))
        assert listener.failures == []
        listener.one.on_message(2, Failed("too-many", "enough here"))
        for server in range(3):
            listener.one.on_message(server, Metrics({}))  # nobody asked for them
        [error] = listener.failures
        assert isinstance(error, Refused)
        assert (str(error), error.code) == ("listen on 's': s2: enough here", "too-many")
        listener.one.close()

    simulated(work)


def test_what_is_read_of_the_past_is_left_to_its_event_if_it_was_written_since():
    """A write that came after the streams stood was reported by a majority before it is read."""

    async def work():
        listener = Listener()
        await asyncio.sleep(0.01)
        listener.accept(0, 1)  # before the reading: of the past, and a slow server tells of it
        listener.accept(1, 2)
        await asyncio.sleep(0.01)
        assert listener.one.on_reading()
        listener.accept(1, 1, ballot=b"2" * 16)
        listener.accept(0, 3)
        assert [listener.one.is_coming(NUMBER, n) for n in (1, 2, 3)] == [False] * 3
        listener.accept(2, 3, ballot=b"2" * 16)
        assert listener.one.is_coming(NUMBER, 3)
        await asyncio.sleep(0.01)
        listener.accept(0, 4)
        listener.accept(2, 4, ballot=b"2" * 16)
        assert listener.one.is_coming(NUMBER, 4)
        assert not listener.one.is_coming(NUMBER, 5)
        assert not listener.one.on_reading(), "the past was read"
        assert [listener.one.is_coming(NUMBER, n) for n in range(6)] == [False, *[True] * 4, False]
        listener.one.close()

    simulated(work)


def test_of_writes_that_servers_accepted_in_different_orders_the_first_reported_goes_first():
    async def work():
        listener = Listener()
        listener.of.cut(2)
        listener.news()
        for server, offsets in ((0, (5,)), (1, (4,)), (0, (4,)), (1, (5,))):
            await asyncio.sleep(0.01)
            assert listener.news() == []
            listener.accept(server, *offsets)
        assert listener.news() == [(0.04, 5), (0.04, 4)]
        listener.one.close()
        five = Listener(5)
        five.news()
        for server, offsets in enumerate(((1, 2, 3), (1, 2, 3), (2, 3, 1), (2, 3, 1))):
            await asyncio.sleep(0.01)
            five.accept(server, *offsets)
        assert five.news() == [], "the head of the fifth stream may still decide"
        five.accept(4, 3)
        assert five.news() == [(0.04, 1), (0.04, 2), (0.04, 3)]
        five.one.close()

    simulated(work)


def test_a_head_that_nobody_has_decided_may_still_be_the_first():
    async def work():
        listener = Listener()
        listener.of.cut(2)
        listener.news()
        listener.accept(0, 1, 2)
        listener.accept(1, 2)
        assert listener.news() == []
        listener.one.close()

    simulated(work)


def test_what_stood_behind_a_trimmed_register_is_told_at_once():
    async def work():
        listener = Listener()
        for server in (0, 1):
            listener.accept(server, 1, ballot=b"%016d" % server)
            listener.accept(server, 9, number=NUMBER + 1)
        assert listener.news() == [(0.0, Gap())]
        listener.one.on_message(2, TrimNotice("s", NUMBER, NUMBER + 1))
        assert listener.news() == [(0.0, RegistersTrimmed("s", NUMBER, NUMBER + 1)), (0.0, 9)]
        listener.one.close()

    simulated(work)


def test_who_has_heard_too_much_reads_when_the_streams_stand_and_not_before():
    async def work():
        with turned(registers_undecided_bytes=4096):
            listener = Listener(streams=(0,))
            listener.accept(0, *range(20))
            assert listener.news() == []
            assert not listener.one._votes
            listener.one.on_message(1, Done())
            listener.one.on_message(2, Done())
            assert listener.news() == [(0.0, Gap())]
            listener.accept(0, *range(20))
            assert listener.news() == [(0.0, Gap())]
            listener.one.close()

    simulated(work)
