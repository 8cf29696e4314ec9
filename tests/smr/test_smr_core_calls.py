"""Where a replica's calls go: to itself while it leads, to who leads, again until they are done."""

import asyncio

import pytest
from cores import (
    METHODS,
    OTHER,
    THIRD,
    TIMEOUT_S,
    begun,
    learn,
    nobody_calls,  # noqa: F401 - a fixture
    on,
    packet,
)

from virtual import virtually
from wormspace.errors import CaptureLost, Closed, Trimmed, Unavailable, UsageError, ValueTooLarge
from wormspace.smr import Causal, Eventual, Linearizable, Sequential
from wormspace.smr.calls import encode_calls, encode_outcome
from wormspace.smr.consistency import Session
from wormspace.smr.errors import Behind, NoLeader
from wormspace.smr.records import (
    Member,
    Packet,
    Question,
    Reply,
    decode_plain_outcome,
    decoder,
    encode,
)
from wormspace.smr.replica_context import NotLeading
from wormspace.smr.submit import PacketTooLarge
from wormspace.space import Address

FIRST, LAST = (Member(f"r{n}", bytes([n * 28]) * 8, "there", n) for n in (0, 9))


class Elsewhere:
    """The other replicas: what they are asked, and what they say, by turns."""

    def __init__(self, core, *says):
        self.core, self.says, self.asked = core, list(says), []
        core.context.call = self._call

    async def _call(self, member, what, body, timeout):
        self.asked.append((member, what, body, timeout))
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if callable(said):
            said = said()
        if isinstance(said, asyncio.Event):
            await said.wait()
        if isinstance(said, BaseException):
            raise said
        return said if isinstance(said, bytes) else encode(said)


def reply(*values, at=Address(0, 3)):  # noqa: B008
    return Reply(encode_outcome(list(values), {}), at)


def note(core, n):
    return core.command(METHODS["note"], (n,), Session())


def count(core, level, session=None, least=0):
    return core.query(METHODS["count"], (least,), level, session or Session())


# ---------------------------------------------------------------- commands


@on
async def test_a_packet_that_is_proposed_twice_is_offered_once_and_known_afterwards(worm, caplog):
    core, puppet = await begun(worm)
    one, other = packet(1, 5), packet(1, 6, client=b"client 2")
    gave_up = asyncio.ensure_future(core.router.propose(one))
    waiting = [asyncio.ensure_future(core.router.propose(each)) for each in (one, one, other)]
    await asyncio.sleep(0.1)
    gave_up.cancel()
    await asyncio.sleep(0.1)
    assert puppet.offered == [one, other]
    learn(core, 0, one, other)
    first, again, different = [await each for each in waiting]
    assert first == again
    for got, values, of in ((first, [1], one), (different, [2], other)):
        assert decode_plain_outcome(got.body).values == values
        assert (got.position, got.largest) == (Address(0, 1), core.context.largest_packet)
        assert await core.router.propose(of) == got
    assert len(puppet.offered) == 2
    await core.close()


@on
async def test_nobody_is_told_of_a_packet_whose_sender_has_hung_up(worm, caplog):
    core, _ = await begun(worm)
    for ending in (lambda: core.context.fail_waiting(NotLeading("over")), lambda: None):
        gone = asyncio.ensure_future(core.router.propose(packet(1, 5)))
        await asyncio.sleep(0.1)
        gone.cancel()
        await asyncio.sleep(0.1)
        ending()
        for future in core.context.waiting.values():
            future.cancel()
    await core.close()


@on
async def test_a_packet_may_be_as_large_as_a_register_has_room(worm, caplog):
    core, puppet = await begun(worm)
    largest = core.context.largest_packet
    for size in (largest - 1, largest):
        asyncio.ensure_future(core.router.propose(Packet(b"client 1", size, 1, bytes(size))))  # noqa: RUF006
    await asyncio.sleep(0.1)
    assert len(puppet.offered) == 2
    with pytest.raises(PacketTooLarge) as found:
        await core.router.propose(Packet(b"client 1", 1, 1, bytes(largest + 1)))
    assert found.value.largest == largest
    for number in (largest - 1, largest):
        core.context.waiting.pop((b"client 1", number)).cancel()
    await asyncio.sleep(0)
    await core.close()


@on
async def test_a_command_goes_through_a_register_where_this_replica_leads(worm, caplog):
    core, puppet = await begun(worm)
    session = Session()
    result = core.command(METHODS["note"], (7,), session)
    await asyncio.sleep(0.1)
    learn(core, 0, *puppet.offered)
    assert await result == 1
    assert core.learner.engine.machine.seen == [7]
    assert session.seen == Address(0, 1)
    await core.close()


@on
async def test_a_command_goes_to_who_leads_and_asks_again_until_it_is_done(worm, caplog):
    core, puppet = await begun(worm)
    puppet.leads, puppet.leader = False, OTHER

    def third():
        puppet.leader = THIRD
        return Reply(None, Address(0, 0))

    others = Elsewhere(
        core, NotLeading("no"), b"junk", TimeoutError(), CaptureLost("x"), third, reply(41)
    )
    session = Session()
    assert await core.command(METHODS["note"], (7,), session) == 41
    assert session.seen == Address(0, 3)
    sent = [(member, what) for member, what, _, _ in others.asked]
    assert sent == [(OTHER, "submit")] * 5 + [(THIRD, "submit")]
    packets = [decoder(Packet)(body) for _, _, body, _ in others.asked]
    assert packets == packets[:1] * 6
    assert packets[0].commands == encode_calls([METHODS["note"]], [(7,)])
    assert {timeout for _, _, _, timeout in others.asked} == {1.0}
    await core.close()


@pytest.mark.parametrize(
    ("says", "error", "words"),
    [
        (UsageError("absurd"), UsageError, "absurd"),
        (Trimmed("gone"), Trimmed, "gone"),
        (ValueError("a fault of ours"), ValueError, "a fault of ours"),
        (Reply(None, Address(0, 0), largest=77, too_large=True), ValueTooLarge, "the 77 bytes"),
    ],
)
def test_what_trying_again_does_not_help_is_told_at_once(says, error, words):
    async def work(worm):
        core, puppet = await begun(worm)
        puppet.leads, puppet.leader = False, OTHER
        others = Elsewhere(core, says)
        with pytest.raises(error, match=words):
            await note(core, 1)
        assert len(others.asked) == 1
        await core.close()

    virtually(work)


@pytest.mark.parametrize(
    ("leads", "leader", "says", "words"),
    [
        (False, None, b"", "(r1 (here:4242): nobody is known to lead)"),
        (False, "itself", b"", "(r1 (here:4242): this replica does not lead yet)"),
        (False, OTHER, Reply(None, Address(0, 0)), "(r2 (there:2): it does not lead)"),
        (False, FIRST, NotLeading("it is ill"), "(r0 (there:0): it is ill)"),
        (False, LAST, NotLeading("it is ill"), "(r9 (there:9): it is ill)"),
        (False, OTHER, NotLeading("it is ill"), "(r2 (there:2): it is ill)"),
        (False, OTHER, Unavailable(""), "(r2 (there:2): Unavailable)"),
        (True, None, b"", "(r1 (here:4242): no majority)"),
        (True, OTHER, b"", "(r2 (there:2): no majority)"),
    ],
)
def test_a_call_that_is_not_done_in_time_says_who_was_asked_last(leads, leader, says, words):
    async def work(worm):
        core, puppet = await begun(worm)
        puppet.leads = leads
        puppet.leader = core.context.member if leader == "itself" else leader
        others = Elsewhere(core, says)

        def offer(packet):
            raise NotLeading("no majority")

        puppet.offer = offer
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(NoLeader) as found:
            await note(core, 1)
        assert loop.time() - began == pytest.approx(TIMEOUT_S)
        end = "; whether it was done is unknown"
        assert str(found.value) == f"thing: no answer in time {words}{end}"
        assert (len(others.asked) > 0) == (leader in (OTHER, FIRST, LAST) and not leads)
        assert len(others.asked) < 200
        await core.close()

    virtually(work)


@on
async def test_a_call_in_which_nothing_is_heard_ends_by_its_deadline_wherever_it_is(worm, caplog):
    core, puppet = await begun(worm)
    loop = asyncio.get_running_loop()
    for leads in (True, False):
        puppet.leads, puppet.leader = leads, OTHER
        others = Elsewhere(core, asyncio.Event)
        began = loop.time()
        with pytest.raises(NoLeader):
            await note(core, 1)
        assert loop.time() - began == pytest.approx(TIMEOUT_S)
        assert len(others.asked) == (not leads), "the network's own time-out ends an attempt"
    await core.close()


@on
async def test_what_was_sent_to_one_leader_is_sent_again_when_there_is_another(worm, caplog):
    core, puppet = await begun(worm)
    puppet.leads, puppet.leader = False, OTHER
    others = Elsewhere(core, asyncio.Event(), reply(5), reply(6))
    result = note(core, 1)
    await asyncio.sleep(0.5)
    assert len(others.asked) == 1
    began = asyncio.get_running_loop().time()
    puppet.leader = THIRD
    core.learner.on_leader()
    assert await result == 5
    assert asyncio.get_running_loop().time() - began < 0.02
    assert [member for member, *_ in others.asked] == [OTHER, THIRD]
    core.learner.on_leader()  # nothing is under way
    assert await note(core, 2) == 6
    await core.close()


@on
async def test_two_leaders_in_one_moment_end_what_was_sent_to_the_one_before_once(worm, caplog):
    """The second is heard of while the call is on its way out."""
    core, puppet = await begun(worm)
    puppet.leads, puppet.leader = False, OTHER
    others = Elsewhere(core, asyncio.Event(), reply(5))
    result = note(core, 1)
    await asyncio.sleep(0.5)
    puppet.leader = THIRD
    for _ in range(8):
        core.learner.on_leader()
        await asyncio.sleep(0)
    assert await result == 5
    assert [member for member, *_ in others.asked] == [OTHER, THIRD]
    await core.close()


@on
async def test_a_call_of_a_replica_that_has_stopped_ends_with_why(worm, caplog):
    core, puppet = await begun(worm)
    puppet.leads, puppet.leader = False, OTHER

    def stop():
        core.failed = Unavailable("it has stopped")
        return NotLeading("x")

    Elsewhere(core, stop)
    with pytest.raises(Unavailable, match="it has stopped"):
        await note(core, 1)
    await core.close()


# ---------------------------------------------------------------- queries


@on
async def test_a_leader_answers_once_it_has_what_was_confirmed_and_what_was_seen(worm, caplog):
    core, puppet = await begun(worm)
    for seen, latest in ((Address(0, 1), Address(0, 2)), (Address(0, 4), Address(0, 3))):
        session = Session()
        session.saw(seen)
        puppet.latest = latest
        answer = count(core, Linearizable(), session)
        at = core.learner.position.offset
        for offset in range(at, max(seen, latest).offset):
            assert not answer.done()
            learn(core, offset, packet(offset + 1, offset))
            await asyncio.sleep(0.1)
        assert answer.done()
        assert await answer == max(seen, latest).offset
        assert session.seen == core.learner.position
    await core.close()


@on
async def test_a_question_goes_to_who_leads_with_what_its_session_has_seen(worm, caplog):
    core, puppet = await begun(worm)
    puppet.leads, puppet.leader = False, OTHER
    others = Elsewhere(core, Reply(None, Address(0, 0)), reply(9))
    session = Session()
    session.saw(Address(0, 2))
    assert await count(core, Linearizable(), session, 4) == 9
    assert session.seen == Address(0, 3)
    queries = encode_calls([METHODS["count"]], [(4,)])
    ask = encode(Question(queries, "linearizable", Address(0, 2)))
    assert others.asked == [(OTHER, "ask", ask, 1.0)] * 2
    await core.close()


@on
async def test_at_weaker_levels_this_replica_answers_without_asking_anybody(worm, caplog):
    core, puppet = await begun(worm)
    puppet.leads, puppet.leader, puppet.latest = False, OTHER, Address(7, 0)
    others = Elsewhere(core, UsageError("nobody is asked"))
    learn(core, 0, packet(1, 5))
    learn(core, 1, packet(2, 6))
    for seen in (Address(0, 0), Address(0, 1), Address(0, 2)):
        for level in (Sequential(), Causal(), Eventual()):
            session = Session()
            session.saw(seen)
            assert await count(core, level, session) == 2
            eventually = isinstance(level, Eventual)
            assert session.seen == (seen if eventually else Address(0, 2))
    session = Session()
    session.saw(Address(0, 3))
    assert await count(core, Eventual(), session) == 2
    waiting = [count(core, level, session) for level in (Sequential(), Causal())]
    await asyncio.sleep(1)
    assert not any(one.done() for one in waiting)
    learn(core, 2, packet(3, 7))
    assert [await one for one in waiting] == [3, 3]
    assert others.asked == []
    await core.close()


@on
async def test_who_is_behind_for_too_long_says_where_it_is(worm, caplog):
    core, _ = await begun(worm)
    session = Session()
    session.saw(Address(0, 3))
    began = asyncio.get_running_loop().time()
    with pytest.raises(Behind, match="this replica is at 0/0, not 0/3"):
        await count(core, Sequential(), session)
    assert asyncio.get_running_loop().time() - began == pytest.approx(TIMEOUT_S)
    waiting = count(core, Sequential(), session)
    await asyncio.sleep(0.1)
    await core.close()
    with pytest.raises(Closed):
        await waiting
