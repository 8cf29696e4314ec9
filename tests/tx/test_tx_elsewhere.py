"""A store at another site, and what a site does when another one asks: with a made-up wire."""

from __future__ import annotations

import asyncio

import pytest
from tests.tx.pieces import (
    HOME,
    Branch,
    Manager,
    Site,
    gid,
    plan,
    turn,
    vote,
)

import wormspace
from wormspace.errors import UsageError
from wormspace.rpc import NoAnswer
from wormspace.store.memory_engine import MemoryEngine
from wormspace.tx import KeyValueStore, messages
from wormspace.tx.deciding import ABORTED, Decision
from wormspace.tx.errors import Conflict, ManagerDown, WrongManager
from wormspace.tx.messages import Plan
from wormspace.tx.names import Gid, TxId
from wormspace.tx.operations import DELETE, GET, PUT, Found, decode_operation
from wormspace.tx.remote import RemoteStore
from wormspace.tx.serving import Handlers
from wormspace.tx.space import TransactionSpace


class Calling:
    """A caller that notes its calls."""

    def __init__(self, answer: bytes | Exception = b"") -> None:
        self.answer, self.calls, self.closed = answer, [], 0

    async def call(self, service: str, body: bytes, timeout: float) -> bytes:
        self.calls.append((service, messages.decode_request(body), timeout))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def close(self) -> None:
        self.closed += 1


def store_at(answer: bytes | Exception = b"") -> tuple[RemoteStore, Calling]:
    store = RemoteStore("a", "h:1")
    store._caller = calling = Calling(answer)
    return store, calling


async def test_a_store_elsewhere_is_told_outcomes_and_asked_what_it_holds() -> None:
    store, calling = store_at(messages.encode([str(gid()), str(gid("b")), "other"]))
    for ask in (store.prepared, store.identity):
        with pytest.raises(UsageError, match="not used in any transaction space yet"):
            await ask()
    store.belong_to(HOME)
    store.belong_to(HOME)
    assert await store.prepared() == [gid()]
    await store.commit(gid())
    await store.abort(gid(number=2))
    said = [
        messages.ListPrepared("a"),
        messages.Finish(str(gid()), True),
        messages.Finish(str(gid(number=2)), False),
    ]
    assert calling.calls == [("tx", messages.ToSpace(HOME.identity, m), 5.0) for m in said]
    with pytest.raises(UsageError, match="takes part in another transaction space"):
        store.belong_to(TransactionSpace("ty", "1" * 16, 8))
    calling.answer, asked = b"who it is", len(calling.calls)
    for given, used in ((None, 5.0), (2.0, 2.0), (7.0, 5.0)):
        assert await store.identity(given) == "who it is"
        assert calling.calls[-1][2] == used
    assert calling.calls[asked][1] == messages.ToSpace(HOME.identity, messages.Identify("a"))
    with pytest.raises(UsageError, match="is elsewhere"):
        await store.begin(gid())
    assert store.is_conflict(Conflict("x"))
    assert not store.is_conflict(ManagerDown("x"))
    await store.close()
    assert calling.closed == 1
    calling.answer = NoAnswer("silent")
    with pytest.raises(ManagerDown, match="store 'a' at h:1: silent"):
        await store.commit(gid())


class Planner:
    """Plans at once."""

    planned: list[str]

    def __init__(self) -> None:
        self.planned = []

    def plan_now(self, manager: str) -> Plan:
        self.planned.append(manager)
        return plan()


async def test_a_session_elsewhere_sends_each_operation_and_what_is_the_last() -> None:
    store, _ = store_at()
    site, planner = Site(), Planner()
    site.answer = messages.encode(messages.Said(messages.encode(Found(b"v"))))
    txid = TxId("j", 1)
    session = store.session(site, txid, planner)
    session.rollback()
    assert site.spawned == []
    assert await session.get(b"k") == b"v"
    await session.put(b"k", b"w")
    assert planner.planned == []
    await session.delete(b"k", last=True)
    assert planner.planned == ["a"]
    sent = []
    for address, message, timeout in site.said:
        assert (address, timeout, message.id, message.manager) == ("h:1", 5.0, txid, "a")
        operation = decode_operation(message.body)
        sent.append((operation.kind, operation.key, operation.value, message.last))
    assert sent == [(GET, b"k", b"", None), (PUT, b"k", b"w", None), (DELETE, b"k", b"", plan())]
    with pytest.raises(UsageError, match="was told with last=True"):
        await session.get(b"k")
    session.rollback()
    await asyncio.gather(*site.spawned)
    assert site.said[-1] == ("h:1", messages.Rollback(txid, "a"), 5.0)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (messages.Said(problem="a lock", conflict=True), Conflict),
        (messages.Said(problem="a lock"), UsageError),
        (NoAnswer("a lock"), ManagerDown),
    ],
)
async def test_a_session_elsewhere_raises_what_happened_there(answer, error) -> None:
    store, _ = store_at()
    site = Site()
    site.answer = answer if isinstance(answer, Exception) else messages.encode(answer)
    with pytest.raises(error, match="a lock"):
        await store.session(site, TxId("j", 1), Planner()).put(b"k", b"v", last=True)
    for wrong in ((b"", b"v"), (b"k", "v")):
        with pytest.raises(UsageError):
            await store.session(site, TxId("j", 1), Planner()).put(*wrong)
    assert len(site.said) == 1


# ---------------------------------------------------------------- serving


def request(message, identity: str = HOME.identity) -> bytes:
    return messages.encode(messages.ToSpace(identity, message))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"x", "not a request"),
        (request(messages.ListPrepared("a"), "1" * 16), "another transaction space"),
        (request(messages.ListPrepared("z")), "no z"),
        (request(messages.Finish("x", True)), "'x' is no branch"),
    ],
)
async def test_a_site_refuses_what_it_does_not_understand(body: bytes, says: str) -> None:
    manager = Manager()
    with pytest.raises(UsageError, match=says):
        await Handlers(Site(manager)).on_request(body)
    assert manager.told == []


async def test_a_site_does_what_others_ask() -> None:
    manager = Manager()
    manager.gids = [gid()]
    site = Site(manager)
    ask = Handlers(site).on_request
    held = await ask(request(messages.ListPrepared("a")))
    assert messages.decode_gids(held) == [str(gid())]
    for commit, told in ((True, "commit"), (False, "abort")):
        assert await ask(request(messages.Finish(str(gid()), commit))) == b""
        assert manager.told[-1] == (told, gid())
    assert site.host.identities.checked == [("a", False)] * 3
    assert await ask(request(messages.Identify("a"))) == b"database-a"
    assert len(site.host.identities.checked) == 3, "it only says who it is"
    in_flight = site.host.in_flights.join(TxId("j", 1), ("a", "b"))
    aborted = Decision(ABORTED, "b")
    for number in (1, 2):
        assert await ask(request(messages.Tell(TxId("j", number), aborted))) == b""
    assert in_flight.decision == aborted
    branch = Branch()
    site.host.kept.keep(TxId("j", 1), "a", branch)
    for _ in range(2):
        assert await ask(request(messages.Rollback(TxId("j", 1), "a"))) == b""
    assert branch.rolled_back == 1


async def test_a_site_does_nothing_at_a_manager_that_is_another_database() -> None:
    site = Site(manager := Manager())
    site.host.identities.problem = WrongManager("another", "x", "y")
    for message in (
        messages.ListPrepared("a"),
        messages.Finish(str(gid()), True),
        messages.Operate(TxId("j", 1), "a", b"xy"),
    ):
        with pytest.raises(WrongManager):
            await Handlers(site).on_request(request(message))
    assert manager.told == []
    assert site.host.kept.used() == []


async def test_an_operation_begins_a_branch_that_goes_on_and_the_last_one_votes() -> None:
    begun = []

    class Beginning(Manager):
        async def begin(self, its: Gid) -> Branch:
            begun.append(its)
            return Branch()

    site = Site(Beginning())
    ask, txid = Handlers(site).on_request, TxId("j", 1)
    for _ in range(2):
        said = messages.decode_said(await ask(request(messages.Operate(txid, "a", b"xy"))))
        assert said == messages.Said(b"yx")
    assert begun == [gid()]
    assert site.host.identities.checked == [("a", True)], "before its branch begins"
    assert site.parts == []
    its = plan("A8")
    await ask(request(messages.Operate(txid, "a", b"xy", its)))
    assert site.parts == [(its, {"a": None})]
    for problem, said in (
        (Conflict("a lock"), messages.Said(problem="a lock", conflict=True)),
        (UsageError("wrong"), messages.Said(problem="wrong")),
    ):
        site.host.kept.use(txid, "a").problem = problem
        assert messages.decode_said(await ask(request(messages.Operate(txid, "a", b"")))) == said


async def test_a_site_that_is_asked_for_votes_answers_with_those_that_stand() -> None:
    site = Site(Manager("a"), Manager("b"))
    its = plan("A8")
    asked = asyncio.ensure_future(Handlers(site).on_request(request(messages.Ask(its, ("a", "b")))))
    await turn()
    assert site.parts == [(its, {"a": None, "b": None})]
    in_flight = site.host.in_flights.open[its.id]
    in_flight.learn("b", vote("b"))
    in_flight.learn("a", vote("a", yes=False))
    answer = messages.decode_votes(await asked)
    assert answer == [vote("a", yes=False), vote("b")]
    assert site.host.in_flights.open == {}
    with pytest.raises(UsageError, match="no z"):
        await Handlers(site).on_request(request(messages.Ask(its, ("a", "z"))))
    assert site.host.in_flights.open == {}
    assert len(site.parts) == 1


async def test_a_variant_that_cannot_be_run_like_this_leaves_nothing_locked() -> None:
    store, here = RemoteStore("a", "h:1"), await KeyValueStore.open("b", MemoryEngine())
    async with wormspace.connect("memory:") as worm:
        told = []

        async def say(address: str, message, timeout: float) -> bytes:
            told.append(message)
            return messages.encode(messages.Said())

        worm.site().host.peers.call = say
        t = await worm.transaction([store, here], variant="A8").__aenter__()
        await t[store].put(b"k", b"1")
        await t[here].put(b"k", b"1")
        with pytest.raises(UsageError, match="does not serve: start its site"):
            await t.commit()
        await turn()
        assert told[-1] == messages.Rollback(t.id, "a")
        async with worm.transaction([here]) as t:
            assert await t[here].get(b"k") is None
    await here.close()
