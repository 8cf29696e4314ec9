"""What a replica answers to whoever calls it: packets, questions, signs of life, snapshots."""

import asyncio
import random
from types import SimpleNamespace

import pytest
from contexts import Notes, Place, packet
from digests import state_digest

from virtual import virtually
from wormspace.errors import UsageError, WormError
from wormspace.smr import StateMachine, UpdateNeeded, command, query
from wormspace.smr.calls import encode_calls
from wormspace.smr.errors import ShapeChanged
from wormspace.smr.events import Bells
from wormspace.smr.peers import FORGET_S
from wormspace.smr.questions import HERE, LINEARIZABLE, question, run_queries
from wormspace.smr.records import (
    Fetch,
    Fetched,
    Listen,
    Listened,
    Member,
    Outcome,
    Packet,
    Ping,
    Pong,
    Question,
    Reply,
    decode_plain_outcome,
    decoder,
    encode,
)
from wormspace.smr.replica_context import NotLeading
from wormspace.smr.serving import (
    CLIENT_BYTES,
    MEMBERS_TOLD,
    handlers,
)
from wormspace.smr.snapshots import restore
from wormspace.smr.submit import PacketTooLarge
from wormspace.smr.versions import UPGRADE, encode_upgrade
from wormspace.space import Address

ID = b"r1"
BOB, CY = (Member(name, name.encode(), name, 1) for name in ("bob", "cy"))
START = Address(0, 0)


class Words(StateMachine):
    word: str = "one"

    @command
    def put(self, word: str) -> str:
        self.word = word
        return word

    @query
    def get(self) -> str:
        return self.word


class Words2(Words, version=2, replaces=Words):
    more: int = 0

    def migrate(self, old: Words) -> None:
        self.more = len(old.word)


class Replica:
    """Stands for a replica's core; `results` are what it answers, in turn, or raises."""

    def __init__(self, worm, machine=Words, newest=None):
        self.place = Place(worm)
        self.context, self.learner = self.place.context, self.place.learner
        self.loop = asyncio.get_running_loop()
        self.learner.engine = type(self.learner.engine)(machine(), newest)
        self.proposer = SimpleNamespace(age=lambda: 0.25, leader=BOB)
        self.bells, self.failed = Bells(), None
        self.results, self.asked = [], []
        self.handlers = handlers(self, self)

    def require_sound(self):
        if self.failed is not None:
            raise self.failed

    def _result(self, *asked):
        self.asked.append(asked)
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    async def propose(self, one):
        return self._result("propose", one)

    async def answer(self, queries, seen):
        return self._result("answer", queries, seen)

    async def reach(self, position):
        self.asked.append(("reach", position))

    async def call(self, what, message, kind=Reply):
        body = message if isinstance(message, bytes) else encode(message)
        return decoder(kind)(await self.handlers[f"smr/thing/{what}"](body))


def serving(work, **options):
    virtually(lambda worm: work(Replica(worm, **options)))


def test_each_replica_has_its_own_services_and_those_of_the_object():
    async def work(core):
        own = f"{ID.hex()}/"
        names = {"submit", "ask", "listen", "ping", own + "submit", own + "ask", own + "listen"}
        assert set(core.handlers) == {f"smr/thing/{name}" for name in {*names, own + "fetch"}}
        for name in ("submit", "ask", "listen"):
            both = (core.handlers[f"smr/thing/{one}{name}"] for one in ("", own))
            assert len(set(both)) == 1

    serving(work)


def test_a_packet_is_answered_or_said_to_be_too_large_or_sent_to_the_leader():
    async def work(core):
        one = packet(1, bytes(CLIENT_BYTES))
        reply = Reply(b"outcome", Address(0, 3), None, 77)
        core.results = [reply, NotLeading("no"), PacketTooLarge(55)]
        core.learner.engine.position = Address(0, 5)
        assert await core.call("submit", one) == reply
        assert await core.call("submit", one) == Reply(None, Address(0, 5), BOB)
        assert await core.call("submit", one) == Reply(None, Address(0, 5), None, 55, True)
        assert core.asked == [("propose", one)] * 3

    serving(work)


@pytest.mark.parametrize("what", ["submit", "ask", "listen", "ping", f"{ID.hex()}/fetch"])
def test_what_is_no_request_is_refused_and_what_has_stopped_answers_nothing(what):
    async def work(core):
        with pytest.raises(UsageError, match="malformed request"):
            await core.call(what, b"\xc1")
        core.failed = WormError("it has stopped")
        with pytest.raises(WormError, match="it has stopped"):
            await core.call(what, b"\xc1")
        assert core.asked == []

    serving(work)


def test_only_what_a_replica_can_apply_comes_into_the_log():
    async def work(core):
        async def refused(kind, match, client=bytes(CLIENT_BYTES), commands=b""):
            with pytest.raises(kind, match=match):
                await core.call("submit", Packet(client, 1, 1, commands))
            assert core.asked == []

        await refused(UsageError, "8 bytes, not 7", bytes(7))
        await refused(UsageError, "8 bytes, not 9", bytes(9))
        await refused(UsageError, "malformed upgrade", commands=UPGRADE + b"\xc1")
        shape = Words2.declaration.shape
        other = UPGRADE + encode([2, {**shape, "more": "str"}])
        await refused(ShapeChanged, "'thing', once it was upgraded,", commands=other)
        newer = UPGRADE + encode([3, shape])
        await refused(UpdateNeeded, "cannot become version 3", commands=newer)
        upgrades = [encode_upgrade(Words2), UPGRADE + encode([1, Words.declaration.shape])]
        core.results = [Reply(b"", START)] * 3
        for raw in upgrades:
            await core.call("submit", Packet(bytes(CLIENT_BYTES), 1, 1, raw))
        core.asked.clear()
        core.context.announced.note(Ping(CY, START, START, 3), core.loop.time())
        await asyncio.sleep(FORGET_S)
        await core.call("submit", Packet(bytes(CLIENT_BYTES), 1, 1, newer))  # somebody has it
        core.asked.clear()
        await asyncio.sleep(1)
        await refused(UpdateNeeded, "cannot become version 3", commands=newer)

    serving(work, newest=Words2)


def test_a_question_is_answered_here_or_as_the_leader_says():
    async def work(core):
        raw = encode_calls([Words.declaration.methods["get"]], [()])
        seen = Address(0, 2)
        assert question(raw, seen) == Question(raw, LINEARIZABLE, seen)
        core.learner.engine.position = Address(0, 5)
        answered = await core.call("ask", question(raw, seen, HERE))
        assert decode_plain_outcome(answered.body) == Outcome(["one"])
        assert answered.position == Address(0, 5)
        core.results = [Reply(b"outcome", Address(0, 7)), NotLeading("no")]
        assert await core.call("ask", question(raw, seen)) == Reply(b"outcome", Address(0, 7))
        assert await core.call("ask", question(raw, seen)) == Reply(None, Address(0, 5), BOB)
        assert core.asked == [("reach", seen), *[("answer", raw, seen)] * 2]
        with pytest.raises(UsageError, match="Words: a malformed question"):
            run_queries(core.learner.engine, b"\xc1")
        commands = encode_calls([Words.declaration.methods["put"]], [("two",)])
        run_queries(core.learner.engine, commands)
        assert core.learner.engine.machine.word == "one"

    serving(work)


def test_a_sign_of_life_is_answered_and_heard_if_it_is_of_ours():
    async def work(core):
        context = core.context
        core.learner.engine.position = Address(2, 5)
        answer = Pong(context.member, 0.25, Address(2, 5), [], (-1, b""))
        assert await core.call("ping", Ping(CY, START, START), Pong) == answer
        assert context.peers.heard() == []
        assert context.announced.since(0) == []
        core.learner.allocated(0, 8, context.segment_metadata())
        top = (0, context.member.id)
        with pytest.raises(UsageError, match=r"r1 .* is a replica of another object named .thing."):
            await core.call("ping", Ping(CY, START, START, 1, None, (0, b"another")), Pong)
        assert context.peers.heard() == []
        ping = Ping(CY, Address(1, 1), Address(1, 0), 1, None, top)
        answer = Pong(context.member, 0.25, Address(2, 5), [CY], top)
        assert await core.call("ping", ping, Pong) == answer
        heard = [(one.member, one.applied, one.kept) for one in context.peers.heard()]
        assert heard == [(CY, Address(1, 1), Address(1, 0))]
        assert context.announced.since(core.loop.time()) == [ping]

    serving(work, machine=Notes)


def test_an_answer_to_a_sign_of_life_names_some_of_the_others():
    async def work(core):
        others = [Member(f"{n}", b"%d" % n, "host", n) for n in range(MEMBERS_TOLD + 1)]
        for one in others[:MEMBERS_TOLD]:
            core.context.peers.hear(one, START)
        core.context.peers.introduce([BOB])  # whom nobody has heard here
        ping = Ping(CY, START, START)
        assert (await core.call("ping", ping, Pong)).members == others[:MEMBERS_TOLD]
        core.context.peers.hear(others[MEMBERS_TOLD], START)
        core.context.rng = random.Random(3)
        told = [(await core.call("ping", ping, Pong)).members for _ in range(20)]
        assert {len(one) for one in told} == {MEMBERS_TOLD}
        assert {one.port for members in told for one in members} == set(range(MEMBERS_TOLD + 1))

    serving(work)


def test_a_snapshot_is_fetched_piece_by_piece():
    async def work(core):
        engine = core.learner.engine
        engine.machine.word = "two"
        engine.position = Address(0, 4)

        async def pieces():
            ticket = 0
            for index in range(100):
                fetch = Fetch(ticket, index)
                fetched = await core.call(f"{ID.hex()}/fetch", fetch, Fetched)
                ticket = fetched.ticket
                if not fetched.piece:
                    return
                yield fetched.piece

        back = await restore(Words, pieces())
        assert back.position == Address(0, 4)
        assert state_digest(back) == state_digest(engine)

    serving(work)


def test_events_are_told_and_what_is_held_no_more_is_said_to_be_lost():
    async def work(core):
        engine = core.learner.engine
        engine.emitted = 5
        engine.recent.extend(["d", "e"])
        told = await core.call("listen", Listen(3), Listened)
        assert (told.first, [bytes(one) for one in told.events]) == (4, [encode("d"), encode("e")])
        assert not told.lost
        assert await core.call("listen", Listen(2), Listened) == Listened(4, [], True)

    serving(work)
