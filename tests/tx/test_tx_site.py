"""A site: what it is given, serves, keeps, says to others and does in time."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.tx.pieces import HOME, Branch, Manager, VoteStore, plan, turn, vote
from tests.virtual import virtually

import wormspace
from wormspace.errors import Closed, Unavailable, UsageError, WormError
from wormspace.rpc import Caller
from wormspace.tx import Site
from wormspace.tx import peers as module
from wormspace.tx.committing import ACT_S
from wormspace.tx.deciding import ABORTED, ALL_YES, Decision
from wormspace.tx.hosting import TICK_S
from wormspace.tx.messages import ListPrepared, ToSpace, decode_request, encode
from wormspace.tx.names import TxId

INF = float("inf")


def sited(work, *managers, **given) -> None:
    """Run `work(site)` in virtual time, of a site whose registers are made up."""

    async def run(worm) -> None:
        before = asyncio.all_tasks()
        site = Site(worm, managers=managers, **given)
        real, site.host.vote_store = site.host.vote_store, VoteStore()
        site.host.resolver._vote_store = site.host.vote_store
        await work(site)
        site.host.vote_store = real
        await site.close()
        assert asyncio.all_tasks() == before

    virtually(run)


# ---------------------------------------------------------------- what it is given


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"patience_s": 0}, "patience_s is a number of seconds, above 0"),
        ({"idle_s": -1}, "idle_s is a number of seconds, above 0"),
        ({"clock": 7}, "a clock is a function"),
        ({"on_decision": 7}, "on_decision is a function"),
        ({"managers": "a"}, "managers are a list of resource managers, not 'a'"),
        ({"managers": b"a"}, "managers are a list"),
        ({"managers": 7}, "managers are a list"),
        ({"managers": [7]}, "7 is no resource manager"),
        ({"managers": [Manager()], "patience_s": None}, "patience_s"),
        ({"space": "a/b"}, "a name here has"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_begins(given, says: str) -> None:
    async with wormspace.connect("memory:") as worm:
        before = asyncio.all_tasks()
        with pytest.raises(UsageError, match=says):
            Site(worm, **given)
        assert asyncio.all_tasks() == before
    with pytest.raises(UsageError, match="a connection is what"):
        Site(object())


def test_a_site_is_what_it_is_given_and_a_name_of_its_own() -> None:
    heard = []

    async def work(site: Site) -> None:
        other = Site(site.client, managers=iter([Manager("x"), Manager("y")]))
        assert list(other.host.managers) == ["x", "y"]
        assert len({site.initiator, other.initiator}) == 2
        for each in (site, other):
            assert len(each.initiator) == 16
            assert int(each.initiator, 16) >= 0
            assert each.host.resolver.by == f"resolver {each.initiator}"
            assert (each.address, each.closed, each.host.is_alive) == ("", False, True)
        assert (other._patience, other.recovery._idle, other.space) == (10.0, 30.0, "tx")
        assert (site._patience, site.recovery._idle, site.space) == (7.0, 3.0, "ty")
        assert site.host.clock() == site.host.resolver._clock() == 5.0
        site.host.on_decision("a")
        assert heard == ["a"]
        assert other.host.on_decision is None
        assert len(other.host.tasks) == 4
        site.host.in_flights.learn(TxId("j", 0), "a", vote("a"))
        assert site.gauges()["under_way"] == 0
        site.host.in_flights.join(TxId("j", 1), ("a",))
        assert site.gauges()["under_way"] == 1
        assert site.gauges()["prepared"] == 0
        await other.close()

    given = {"patience_s": 7.0, "idle_s": 3.0, "clock": lambda: 5.0, "space": "ty"}
    sited(work, on_decision=heard.append, **given)


def test_managers_are_here_once_and_by_their_names() -> None:
    async def work(site: Site) -> None:
        a = site.host.manager("a")
        assert site.host.managers == {"a": a}
        tasks = len(site.host.tasks)
        site.attach(a)
        assert len(site.host.tasks) == tasks
        with pytest.raises(UsageError, match="two resource managers are called 'a'"):
            site.attach(Manager("a"))
        for wrong, says in ((7, "7 is no resource manager"), (Manager("a b"), "a name here has")):
            with pytest.raises(UsageError, match=says):
                site.attach(wrong)
        site.detach(Manager("a"))
        assert site.host.manager("a") is a
        with pytest.raises(UsageError, match="7 is no resource manager"):
            site.detach(7)
        for _ in range(2):
            site.detach(a)
        await turn()
        assert (site.host.managers, len(site.host.tasks)) == ({}, tasks - 1)
        with pytest.raises(UsageError, match="no resource manager 'a' at this site"):
            site.host.manager("a")
        site.attach(Manager("a"))

    sited(work, Manager("a"))


# ---------------------------------------------------------------- serving


async def test_a_site_listens_where_it_is_told_and_says_where() -> None:
    async with wormspace.connect("memory:") as worm:
        site, other = Site(worm), Site(worm)
        for host, port in ((7, 0), ("h", "1"), ("h", -1), ("h", 65536), ("h", True)):
            with pytest.raises(UsageError, match=r"a host is a str|a port is an int"):
                await site.start(host, port)
        with pytest.raises(UsageError, match="'x' is not HOST:PORT"):
            await site.start("127.0.0.1", address="x")
        assert site.address == ""
        address = await site.start("127.0.0.1")
        host, _, port = address.partition(":")
        assert (site.address, host, port != "0") == (address, "127.0.0.1", True)
        for place, at in (("127.0.0.1", int(port)), ("no such host.", 65535)):
            with pytest.raises(WormError, match=f"cannot listen on {place}:{at}: .*; choose"):
                await other.start(place, at)
        assert await other.start("127.0.0.1", 0, address="name:7") == "name:7" == other.address
        caller = Caller("127.0.0.1", int(port))
        home = await site.open()
        with pytest.raises(WormError, match="no resource manager 'a'"):
            await caller.call("tx", encode(ToSpace(home.identity, ListPrepared("a"))), 5.0)
        await caller.close()
        for each in (site, other):
            await each.close()
            assert (each.closed, each.host.is_alive) == (True, False)
            with pytest.raises(Closed, match="this site of transaction space 'tx' is closed"):
                await each.start("127.0.0.1")
        again = Site(worm)
        assert await again.start("127.0.0.1", int(port)) == address
        await again.close()


async def test_what_is_said_to_others_names_the_transaction_space(monkeypatch) -> None:
    calls, closed = [], []

    class Calling:
        def __init__(self, host: str, port: int) -> None:
            self.at = (host, port)

        async def call(self, service: str, body: bytes, timeout: float) -> bytes:
            calls.append((self, service, decode_request(body), timeout))
            return b"answer"

        async def close(self) -> None:
            closed.append(self.at)

    monkeypatch.setattr(module, "Caller", Calling)
    async with wormspace.connect("memory:") as worm:
        site = Site(worm)
        identity = (await site.open()).identity
        for address in ("h:1", "i:2", "h:1"):
            assert await site.host.peers.call(address, ListPrepared("a"), 2.5) == b"answer"
        assert [(c.at, *rest) for c, *rest in calls] == [
            (at, "tx", ToSpace(identity, ListPrepared("a")), 2.5)
            for at in (("h", 1), ("i", 2), ("h", 1))
        ]
        assert calls[0][0] is calls[2][0]
        with pytest.raises(UsageError, match="is not HOST:PORT"):
            await site.host.peers.call("x", ListPrepared("a"), 1.0)
        await site.close()
        assert sorted(closed) == [("h", 1), ("i", 2)]


def test_what_nobody_waits_for_is_heard_of_if_it_fails(caplog) -> None:
    async def work(site: Site) -> None:
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        bug = ZeroDivisionError()

        async def do(error: BaseException | None) -> None:
            if error is not None:
                raise error

        others = len(site.host.tasks)
        for error in (None, Unavailable("no servers"), asyncio.CancelledError(), bug):
            site.host.peers.spawn(do(error))
        assert len(site.host.tasks) == others + 4
        await turn()
        assert len(site.host.tasks) == others
        assert told == [{"message": "in a site", "exception": bug}]

    with caplog.at_level(logging.INFO):
        sited(work)
    assert "tx: no servers" in caplog.text


# ---------------------------------------------------------------- numbers and branches


def test_transactions_are_numbered_and_go_on_behind_a_segment_that_was_left() -> None:
    async def work(site: Site) -> None:
        ids = [site.new_id() for _ in range(3)]
        assert ids == [TxId(site.initiator, n) for n in range(3)]
        for number, following in ((1, 8), (0, 9), (7, 10), (8, 16), (31, 32), (2, 33)):
            site.leave_segment(TxId(site.initiator, number))
            assert site.new_id().number == following
        assert site.host.gid("a", ids[0]) == HOME.gid("a", ids[0])

    sited(work)


def test_a_branch_is_kept_until_it_is_taken_and_each_use_is_noted() -> None:
    async def work(site: Site) -> None:
        began, ids = site.host.now(), [TxId("j", n) for n in range(2)]
        branches = [Branch(), Branch()]
        for txid, branch in zip(ids, branches, strict=True):
            site.host.kept.keep(txid, "a", branch)
        await asyncio.sleep(2)
        assert site.host.kept.use(ids[0], "a") is branches[0]
        assert site.host.kept.use(ids[0], "b") is site.host.kept.take(TxId("k", 0), "a") is None
        assert site.host.kept.used() == [((ids[0], "a"), began + 2), ((ids[1], "a"), began)]
        assert site.host.kept.take(ids[0], "a") is branches[0]
        assert site.host.kept.take(ids[0], "a") is site.host.kept.use(ids[0], "a") is None
        assert site.host.kept.used() == [((ids[1], "a"), began)]

    sited(work)


def test_managers_take_part_once_with_the_work_that_is_given_or_kept() -> None:
    async def work(site: Site) -> None:
        its = plan(participants=("a", "b", "c"))
        kept, given = Branch(), Branch()
        site.host.kept.keep(its.id, "a", kept)
        in_flight = site.host.in_flights.join(its.id, its.participants)
        for _ in range(2):
            site.host.take_part(its, {"a": None, "b": given})
        await turn()
        assert (list(in_flight.local), in_flight.users, site.host.kept.used()) == (
            ["a", "b"],
            3,
            [],
        )
        votes = {manager: its for manager, _, its, _, _ in site.host.vote_store.casts}
        assert [votes[name].yes for name in "ab"] == [True, True]
        site.host.take_part(its, {"c": None})
        await turn()
        assert site.host.vote_store.casts[2][2].reason == "its work is not here (any more)"
        assert in_flight.users == 4
        in_flight.decide(Decision(ABORTED))
        site.host.in_flights.leave(in_flight)
        assert site.host.in_flights.open[its.id] is in_flight, "its managers are not done with it"

    sited(work, *map(Manager, "abc"))


def test_a_site_that_is_closed_ends_what_its_managers_do() -> None:
    class Hanging(Branch):
        ended = False

        async def prepare(self) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                self.ended = True

    branch = Hanging()

    async def work(site: Site) -> None:
        site.host.take_part(plan(participants=("a",)), {"a": branch})
        site.host.peers.spawn(asyncio.sleep(1000))
        await turn()

    sited(work, Manager("a"))
    assert branch.ended


def test_a_site_that_is_closed_hears_no_votes() -> None:
    async def work(worm) -> None:
        before = asyncio.all_tasks()
        site = Site(worm)
        await site.open()
        site.host.vote_store.follow("a", TxId("j", 0))
        await turn()
        await site.close()
        assert asyncio.all_tasks() == before

    virtually(work)


# ---------------------------------------------------------------- time limits


def test_a_site_whose_clock_work_is_ending_is_not_alive() -> None:
    async def work(site: Site) -> None:
        site.host.closed = True
        assert not site.host.is_alive
        site.host.closed = False
        assert site.host.is_alive
        site.host._clockwork.cancel()
        assert not site.host.is_alive
        await turn()
        assert not site.host.is_alive

    sited(work)


async def _end(waiting: asyncio.Future, site: Site, began: float) -> tuple[object, float]:
    """What came, and when."""
    try:
        result: object = await waiting
    except WormError as e:
        result = str(e)
    return result, site.host.now() - began


@pytest.mark.parametrize("silent", [False, True])
def test_who_has_not_voted_at_the_time_limit_is_not_waited_for(silent: bool) -> None:
    async def work(site: Site) -> None:
        async def read(*_, **__):
            raise Unavailable("no servers")

        if silent:
            site.host.vote_store.read = read
        ids = [TxId("j", n) for n in range(2)]
        in_flight, other = (site.host.in_flights.join(txid, ("a", "b")) for txid in ids)
        in_flight.learn("a", vote("a"))
        began = site.host.now()
        in_flight.deadline = began + 3
        result, at = await _end(asyncio.ensure_future(in_flight.ended()), site, began)
        assert 3 <= at <= 3 + TICK_S + 0.001
        assert other.decision is None
        if silent:
            assert (result, in_flight.deadline) == ("no servers", INF)
            return
        assert (result.culprit, result.by, site.host.vote_store.refused) == (
            "b",
            site.host.resolver.by,
            ["b"],
        )
        assert in_flight.deadline == pytest.approx(began + at)

    sited(work)


def test_who_has_not_acted_a_while_after_the_time_limit_is_not_waited_for() -> None:
    class Idle:
        manager, acted, task = "a", False, None

        def act(self) -> None:
            pass

    async def work(site: Site) -> None:
        in_flight = site.host.in_flights.join(TxId("j", 0), ("a",))
        in_flight.add(Idle())
        began = site.host.now()
        in_flight.deadline = began + 3
        await asyncio.sleep(1)
        in_flight.decide(ALL_YES)
        result, at = await _end(asyncio.ensure_future(in_flight.ended()), site, began)
        assert result == ALL_YES
        assert 3 + ACT_S <= at <= 3 + ACT_S + TICK_S + 0.001

    sited(work)


# ---------------------------------------------------------------- resolving


def test_settling_and_sweeping_take_what_is_said_and_nothing_else() -> None:
    async def work(site: Site) -> None:
        given = []

        async def settle(*what, **named):
            given.append((*what, named))
            return ALL_YES

        async def recover(patience: float):
            given.append(patience)
            return []

        site.host.resolver.settle, site.recovery.recover = settle, recover
        site.recovery.left_alone = lambda patience: [patience]
        txid, now = TxId("j", 0), site.host.now()
        assert await site.settle(txid, iter("ab")) == ALL_YES
        await site.settle(txid, ["a"], timeout=2.0)
        assert given == [
            (txid, ("a", "b"), {"deadline": now + 5.0}),
            (txid, ("a",), {"deadline": now + 2.0}),
        ]
        given.clear()
        for patience in (None, 0, 3.5, INF):
            assert await site.recover(patience) == []
        assert given == [site._patience, 0, 3.5, INF]
        assert [site.left_alone(p)[0] for p in (None, 0, 3.5)] == [site._patience, 0, 3.5]
        for call in (
            lambda: site.settle(txid, ["a"], timeout=0),
            lambda: site.settle(txid, "ab"),
            lambda: site.settle("j-0", ["a"]),
            lambda: site.recover(-1),
            lambda: site.recover("soon"),
        ):
            with pytest.raises(UsageError):
                await call()
        for patience in (-1, "soon"):
            with pytest.raises(UsageError):
                site.left_alone(patience)
        with pytest.raises(UsageError, match="a timeout"):
            await site.open(0)
        assert len(given) == 4

    sited(work)
