"""A client that is no replica: whom it asks, in which order, and what it makes of each answer."""

import asyncio
import random

import pytest

from virtual import virtually
from wormspace.errors import Closed, UsageError, ValueTooLarge
from wormspace.rpc import NoAnswer, NoService
from wormspace.runtime.retrying import FOLLOW_RETRY_S, PAUSE_S
from wormspace.smr import (
    Causal,
    Counter,
    EventsLost,
    Eventual,
    NoLeader,
    Sequential,
    attach,
    remote,
)
from wormspace.smr.events import LISTEN_S
from wormspace.smr.questions import HERE, LINEARIZABLE
from wormspace.smr.records import (
    Listen,
    Listened,
    Member,
    Outcome,
    Packet,
    Question,
    Reply,
    SegmentMetadata,
    decoder,
    encode,
    encode_segment_metadata,
)
from wormspace.smr.remote import LEARNED, addresses_of
from wormspace.smr.trying import ATTEMPT_S
from wormspace.space import Address

A, B, C, D = ("a", 1), ("b", 2), ("c", 3), ("d", 4)
KINDS = {"submit": decoder(Packet), "ask": decoder(Question), "listen": decoder(Listen)}
AT = Address(2, 3)


def member(address, identity=b"me"):
    return Member(address[0], identity, *address)


def sum_of(value, **options):
    return Reply(encode(Outcome([value])), AT, **options)


def elsewhere(address=None, identity=b"me"):
    return Reply(None, AT, None if address is None else member(address, identity))


class Others:
    """The replicas: `answers`, by address, has what each says, in turn; the last one again.

    Attributes:
        asked: address, service and message of each call.
        open: the addresses to which there is a connection.
    """

    def __init__(self, monkeypatch):
        self.answers, self.asked, self.open, self.timeouts = {}, [], [], []
        others = self

        class Caller:
            def __init__(self, host, port):
                self.address = (host, port)
                others.open.append(self.address)

            async def call(self, service, body, timeout):
                what = service.rpartition("/")[2]
                others.asked.append((self.address, service, KINDS[what](body)))
                others.timeouts.append(timeout)
                answers = others.answers.get(self.address, [NoAnswer("nobody is there")])
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if isinstance(answer, asyncio.Event):
                    await answer.wait()
                    raise NoAnswer("hung up")
                if isinstance(answer, Exception):
                    raise answer
                return answer if isinstance(answer, bytes) else encode(answer)

            async def close(self):
                if self.address in others.open:
                    others.open.remove(self.address)

        monkeypatch.setattr(remote, "Caller", Caller)

    @property
    def places(self):
        return [address for address, _, _ in self.asked]

    @property
    def services(self):
        return [service.removeprefix("smr/hits/") for _, service, _ in self.asked]


@pytest.fixture
def others(monkeypatch):
    found = Others(monkeypatch)
    yield found
    assert found.open == [], "whoever is done hangs up"


def calling(work, addresses=(A, B, C), timeout=10.0):
    """Run `work(hits)` with a client that was given these addresses."""

    async def run(worm):
        rng = random.Random(1)
        hits = await attach(Counter, "hits", list(addresses), timeout=timeout, rng=rng)
        async with hits:
            return await work(hits)

    return virtually(run)


# ---------------------------------------------------------------- whom it asks


def test_a_command_goes_to_the_first_that_was_given_and_the_next_to_who_answered(others):
    others.answers[A] = [sum_of(7), sum_of(8)]

    async def work(hits):
        assert await hits.add(7) == 7
        assert hits.token == f"{AT.segment}/{AT.offset}"
        assert await hits.add(1) == 8
        assert others.places == [A, A]
        assert others.services == ["submit"] * 2
        assert [one.number for _, _, one in others.asked] == [1, 2]
        assert others.timeouts == [ATTEMPT_S] * 2
        assert others.open == [A]

    calling(work)
    assert others.open == []


def test_who_does_not_lead_names_the_leader_and_that_one_is_asked_by_its_id(others):
    others.answers[A] = [elsewhere(D, b"\x01\x02")]
    others.answers[D] = [elsewhere(B, b"\x03"), sum_of(2)]
    others.answers[B] = [sum_of(1), elsewhere(D, b"\x04")]

    async def work(hits):
        assert await hits.add() == 1
        assert others.places == [A, D, B]
        assert others.services == ["submit", "0102/submit", "submit"], "who was given has no id"
        assert await hits.add() == 2
        assert others.places[3:] == [B, D]
        assert others.services[4] == "04/submit", "the newest is asked"
        assert hits._client.addresses == [A, B, C, D]

    calling(work)


@pytest.mark.parametrize(
    "answer", [elsewhere(), elsewhere(A), NoAnswer("gone"), b"\xc1", NoService("another")]
)
def test_who_cannot_help_is_followed_by_the_next_that_is_known(others, answer):
    others.answers[A] = [answer]
    others.answers[C] = [sum_of(5)]

    async def work(hits):
        began = hits._client._loop.time()
        assert await hits.add() == 5
        assert others.places == [A, B, C]
        assert 0 < hits._client._loop.time() - began < 0.1
        others.answers[C] = [answer]
        others.answers[A] = [sum_of(6)]
        assert await hits.add() == 6
        assert others.places[3:] == [C, A]

    calling(work)


def test_calls_of_one_time_turn_to_another_one_once(others):
    async def work(hits):
        line = hits._client
        line._turn(A, None)
        line._turn(A, None)
        assert line._leader == B
        line._turn(A, member(D))
        assert line._leader == B, "another call has turned already"
        line._turn(B, member(B))
        assert line._leader == C
        line._turn(C, member(D))
        assert line._leader == D
        line._addresses.remove(D)
        line._turn(D, None)
        assert line._leader == A

    calling(work)


def test_only_so_many_that_were_learned_are_remembered_and_connections_to_the_rest_closed(others):
    async def work(hits):
        line = hits._client
        learned = [("x", n) for n in range(LEARNED + 2)]
        for n, address in enumerate(learned):
            others.answers[address] = [elsewhere()]
            line._turn(line._leader, member(address, b"%d" % n))
            assert len(line._closing) == max(0, n + 1 - LEARNED), "it is not forgotten meanwhile"
            await line._call(address, "submit", encode(Packet(b"", 1, 1, b"")), 1.0)
            assert others.services[-1] == f"{(b'%d' % n).hex()}/submit"
        await asyncio.sleep(0.1)
        assert line.addresses == [A, B, C, *learned[2:]]
        assert others.open == learned[2:]
        assert set(line._ids) == set(learned[2:])
        assert not line._closing
        line._turn(line._leader, member(B))
        assert line.addresses == [A, B, C, *learned[2:]]

    calling(work)


# ---------------------------------------------------------------- what it makes of it


def test_where_all_have_something_else_that_is_said_at_once(others):
    for address in (A, B, C):
        others.answers[address] = [NoService("no such service")]

    async def work(hits):
        with pytest.raises(UsageError, match=r"no replica of 'hits' at a:1, b:2, c:3"):
            await hits.add()
        assert others.places == [A, B, C]

    calling(work)


@pytest.mark.parametrize("some", [NoAnswer("x"), elsewhere()])
def test_where_somebody_may_have_done_it_it_goes_on_to_its_time(others, some):
    for address in (A, C):
        others.answers[address] = [NoService("no such service")]
    others.answers[B] = [some, NoService("no such service")]

    async def work(hits):
        with pytest.raises(NoLeader, match="whether it was done is unknown"):
            await hits.add()

    calling(work, timeout=2.0)


def test_a_call_ends_at_its_time_and_says_who_was_asked_last(others):
    async def work(hits):
        loop = hits._client._loop
        began = loop.time()
        with pytest.raises(NoLeader, match=r"hits: no answer in time \([abc]:\d: nobody is there"):
            await hits.add()
        assert 1.5 <= loop.time() - began <= 1.5 + PAUSE_S[1]
        assert max(others.timeouts) == ATTEMPT_S
        assert min(others.timeouts) < 0.5

    calling(work, timeout=1.5)


def test_what_is_too_large_is_said_to_its_caller_and_the_size_remembered(others):
    others.answers[A] = [Reply(None, AT, None, 40, True)]

    async def work(hits):
        with pytest.raises(ValueTooLarge, match="40 bytes"):
            await hits.add()
        assert len(others.asked) == 1
        submitter = hits._client._submitter
        assert (submitter.largest, submitter.is_sure) == (40, True)
        others.answers[A] = [sum_of(1, largest=4000)]
        await hits.add()
        assert submitter.largest == 4000
        others.answers[A] = [sum_of(1)]
        await hits.add()
        assert submitter.largest == 4000, "what is not said is not forgotten"

    calling(work)


def test_a_question_says_what_its_session_has_seen_as_far_as_its_level_asks(others):
    others.answers[A] = [sum_of(3)]

    async def work(hits):
        levels = (None, Causal(), Sequential(), Eventual())
        await hits.add()
        for level in levels:
            seen = hits if level is None else hits.at(level)
            assert await seen.read() == 3
        asked = [one for _, _, one in others.asked[1:]]
        assert others.services[1:] == ["ask"] * 4
        assert [one.level for one in asked] == [LINEARIZABLE, HERE, HERE, HERE]
        assert [one.seen for one in asked] == [AT, AT, AT, Address(0, 0)]
        assert len({one.queries for one in asked}) == 1
        others.asked.clear()
        for given in ({}, {"consistency": Causal()}, {"consistency": Eventual()}):
            async with await attach(Counter, "hits", [A], **given) as again:
                await again.add()
                await again.read()
        asked = [one for _, _, one in others.asked if isinstance(one, Question)]
        assert [(one.level, one.seen) for one in asked] == [
            (LINEARIZABLE, AT),
            (HERE, AT),
            (HERE, Address(0, 0)),
        ]

    calling(work)


def test_who_hangs_up_tells_all_who_wait_and_takes_no_more(others):
    others.answers[A] = [asyncio.Event()]

    async def work(hits):
        calls = [hits.add(), hits.read(), hits.at(Eventual()).read(), hits.at(Causal()).read()]
        stream = hits.listen()
        await asyncio.sleep(0.1)
        await hits.close()
        for call in calls:
            with pytest.raises(Closed):
                await call
        with pytest.raises(Closed):
            await anext(stream)
        assert others.open == []
        for more in (hits.add, hits.read, hits.listen):
            with pytest.raises(Closed, match="hung up"):
                more()

    calling(work)


# ---------------------------------------------------------------- events


def test_a_stream_begins_after_what_there_was_and_commands_wait_for_that(others):
    known = asyncio.Event()
    others.answers[A] = [known]
    others.answers[B] = [Listened(6, []), Listened(6, [], True), sum_of(1)]

    async def work(hits):
        stream = hits.listen()
        call = asyncio.ensure_future(hits.add())
        await asyncio.sleep(1)
        assert [one for _, _, one in others.asked] == [Listen(-1)]
        assert others.timeouts == [2 * LISTEN_S]
        known.set()
        await asyncio.sleep(2 * FOLLOW_RETRY_S)
        assert [one for _, _, one in others.asked[1:2]] == [Listen(-1)]
        assert not hits._client._beginning
        others.answers[A] = [sum_of(1)]
        assert await call == 1
        more = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.5)
        assert Listen(5) in [one for _, _, one in others.asked]
        more.cancel()
        await stream.close()

    calling(work)


def test_a_stream_that_is_closed_at_once_asks_nobody_any_more(others):
    others.answers[A] = [asyncio.Event()]

    async def work(hits):
        stream = hits.listen()
        await asyncio.sleep(0.1)
        (beginning,) = hits._client._beginning
        await stream.close()
        await asyncio.sleep(0.1)
        assert not hits._client._beginning
        assert beginning.cancelled()
        for wrong in (-1, 1.0, True):
            with pytest.raises(UsageError):
                hits.listen(wrong)
        assert not hits._client._beginning

    calling(work)


def test_events_are_asked_for_at_the_next_one_when_one_has_them_not(others):
    others.answers[A] = [Listened(9, [], True)]
    others.answers[C] = [Listened(4, [])]

    async def work(hits):
        listener = remote.Listener(hits._client)
        loop = hits._client._loop
        assert await listener.ask(3) == Listened(4, [])
        assert others.places == [A, B, C]
        assert others.services == ["listen"] * 3
        assert loop.time() == pytest.approx(FOLLOW_RETRY_S)
        assert await listener.ask(3) == Listened(4, []), "and then where they were"
        assert others.places[3:] == [C]
        others.answers[C] = [Listened(7, [], True)]
        with pytest.raises(EventsLost, match=r"event 4 is .* oldest is 7.*listen\(7\)") as error:
            await listener.ask(3)
        assert error.value.first == 7
        assert others.places[4:] == [C, A, B]

    calling(work)


def test_events_of_what_is_nowhere_are_said_to_be_and_of_what_may_be_are_waited_for(others):
    for address in (A, B, C):
        others.answers[address] = [NoService("none")]

    async def work(hits):
        with pytest.raises(UsageError, match="no replica of 'hits'"):
            await remote.Listener(hits._client).ask(3)
        assert others.places == [A, B, C]
        with pytest.raises(UsageError, match="no replica of 'hits'"):
            await anext(hits.listen())
        others.answers[B] = [NoService("none"), NoAnswer("x"), Listened(4, [])]
        listener = remote.Listener(hits._client)
        with pytest.raises(UsageError):
            await listener.ask(3)
        others.answers[B] = [NoAnswer("x"), Listened(4, [])]
        others.asked.clear()
        assert await listener.ask(3) == Listened(4, [])
        assert others.places.count(B) == 2

    calling(work)


# ---------------------------------------------------------------- where replicas are


def test_where_the_replicas_are_the_leader_first_and_each_once():
    async def work(worm):
        space = worm.space("hits")
        with pytest.raises(NoLeader, match="no replicated object 'hits'"):
            await addresses_of(worm, "hits")
        await space.alloc(encode_segment_metadata(SegmentMetadata(member(D))), 4)
        segment_metadata = SegmentMetadata(
            member(C), [member(A), member(C, b"other")], [member(B), member(A)]
        )
        await space.alloc(encode_segment_metadata(segment_metadata), 4)
        assert await addresses_of(worm, "hits") == [C, A, B]
        loop, times, tail = asyncio.get_running_loop(), [], type(space).tail
        check = type(space).check

        async def slow_tail(self, *, timeout=None):
            times.append(timeout)
            await asyncio.sleep(2)
            return await tail(self, timeout=timeout)

        async def noted_check(self, number, *, timeout=None):
            times.append(timeout)
            return await check(self, number, timeout=timeout)

        type(space).tail, type(space).check = slow_tail, noted_check
        try:
            for timeout in (5.0, 1.0):
                assert await addresses_of(worm, "hits", timeout=timeout) == [C, A, B]
        finally:
            type(space).tail, type(space).check = tail, check
        assert times == [5.0, pytest.approx(3.0), 1.0, 0.001]
        assert loop.time() < 10

    virtually(work)
