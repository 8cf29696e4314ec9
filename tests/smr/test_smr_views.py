"""What a user holds: which calls go where, at which level, in which session."""

import random

import pytest

import wormspace
from wormspace.errors import UsageError
from wormspace.smr import (
    Causal,
    Counter,
    Eventual,
    Linearizable,
    NeverTrim,
    Sequential,
    StateMachine,
    Sticky,
    Tuning,
    command,
    query,
)
from wormspace.smr.consistency import BadToken, Session
from wormspace.smr.views import View
from wormspace.space import Address


class Shelf(StateMachine):
    held: int = 0

    @command
    def put(self, amount: int, *, why: str = "none") -> int:
        """Put some."""
        return amount

    @query
    def get(self) -> int:
        """Get it."""
        return self.held

    def due(self) -> float | None:
        return None


class Port:
    """Notes where calls go."""

    def command(self, method, arguments, session):
        return ("command", method.name, arguments, session)

    def query(self, method, arguments, level, session):
        return ("query", method.name, arguments, level, session)


def view(level=Linearizable()):  # noqa: B008 - it is frozen
    session = Session()
    return View(Shelf.declaration, Port(), level, session), session


def test_commands_and_queries_go_with_their_session_and_queries_with_their_level():
    shelf, session = view()
    assert shelf.put(3) == ("command", "put", (3, "none"), session)
    assert shelf.put(3, why="x") == ("command", "put", (3, "x"), session)
    assert shelf.get() == ("query", "get", (), Linearizable(), session)
    assert shelf.put is shelf.put
    assert (shelf.put.__name__, shelf.get.__doc__) == ("put", "Get it.")
    for name in ("due", "held", "nothing", "migrate"):
        with pytest.raises(AttributeError, match=f"Shelf has no command or query '{name}'"):
            getattr(shelf, name)
    with pytest.raises(TypeError):
        shelf.put("x")


def test_call_is_the_same_and_takes_this_classes_own():
    shelf, session = view()
    assert shelf.call(Shelf.put, 3, why="y") == ("command", "put", (3, "y"), session)
    assert shelf.call(Shelf.get) == ("query", "get", (), Linearizable(), session)
    for wrong in (Shelf.due, Counter.add, len, "put", None, lambda: None):
        with pytest.raises(UsageError, match=r"takes a command or query as Shelf\.name"):
            shelf.call(wrong)


def test_a_view_at_another_level_has_the_same_session_and_a_session_the_same_level():
    shelf, session = view(Causal())
    for level in (Linearizable(), Sequential(), Causal(), Eventual()):
        assert shelf.at(level).get() == ("query", "get", (), level, session)
        assert shelf.at(level).put(1) == ("command", "put", (1, "none"), session)
    with pytest.raises(UsageError, match="parentheses"):
        shelf.at(Eventual)
    other = shelf.session()
    *_, level, own = other.get()
    assert (level, own is session, own.seen) == (Causal(), False, Address(0, 0))
    session.saw(Address(3, 4))
    assert (shelf.token, other.token) == ("3/4", "0/0")
    joined = shelf.session(shelf.token)
    assert joined.token == "3/4"
    session.saw(Address(3, 5))
    assert joined.token == "3/4"
    with pytest.raises(BadToken):
        shelf.session("nonsense")


async def test_a_replica_is_a_view_of_itself_with_the_options_that_it_was_given():
    async with wormspace.connect("memory:") as worm:
        for consistency, level in ((None, Linearizable()), (Eventual(), Eventual())):
            replica = await worm.replicate(Counter, "hits", consistency=consistency)
            assert replica._level == level
            core = replica._core
            assert (core.context.space, core.router.timeout_s) == (worm.space("hits"), 10.0)
            assert core.context.tuning == Tuning()
            assert core.learner.strategy == Sticky().strategy
            assert isinstance(core._durability, NeverTrim)
            host, port = core.context.member.host, core.context.member.port
            assert host == "127.0.0.1"
            assert core.context.member.name == f"127.0.0.1:{port}"
            await replica.close()
        dice, tuning = random.Random(1), Tuning(segment_size=8)
        leadership = Sticky(0.3)
        async with await worm.replicate(
            Counter, "others", replica="one", timeout=3.0, clock=lambda: 5.0, rng=dice,
            leadership=leadership, durability=NeverTrim(), tuning=tuning,
        ) as replica:  # fmt: skip
            core = replica._core
            assert (core.context.member.name, core.router.timeout_s) == ("one", 3.0)
            assert (core.context.clock(), core.context.rng, core.context.tuning) == (
                5.0,
                dice,
                tuning,
            )
            assert core.proposer._timeout_s == 0.3
            status = replica.status()
            assert (status.member, status.failed) == (core.context.member, "")
        with pytest.raises(UsageError, match="a Tuning"):
            await worm.replicate(Counter, "hits", tuning=8)
        assert core.failed is None
        assert core._closed


async def test_a_replica_that_cannot_start_leaves_nothing_open(monkeypatch):
    closed = []
    close = wormspace.smr.core.Core.close

    async def noted(core):
        closed.append(core)
        await close(core)

    monkeypatch.setattr(wormspace.smr.core.Core, "close", noted)
    async with wormspace.connect("memory:") as worm:
        async with await worm.replicate(Counter, "hits", leadership=Sticky(0.3)) as replica:
            await replica.add()
        closed.clear()
        with pytest.raises(UsageError):
            await worm.replicate(Shelf, "hits")
        (core,) = closed
        assert core.service.guests.served == {}
        assert core._closed
