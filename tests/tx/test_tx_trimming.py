"""When votes are forgotten: by their initiator, and by whoever retires one that is gone."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.tx.pieces import HOME, Manager, Site, VoteStore, gid, resolver, vote
from tests.virtual import Watch, virtually

from wormspace.errors import (
    CaptureLost,
    NotAllocated,
    Trimmed,
    Unavailable,
    UsageError,
)
from wormspace.knobs import turned
from wormspace.rpc import NoAnswer
from wormspace.tx import messages
from wormspace.tx.deciding import Vote, decode
from wormspace.tx.errors import ManagerDown
from wormspace.tx.messages import ListPrepared, Plan
from wormspace.tx.names import TxId
from wormspace.tx.resolver import Resolver
from wormspace.tx.space import TransactionSpace, open_space
from wormspace.tx.trimming import UNUSED, Finished, _any_of, _seal, retire
from wormspace.tx.vote_store import VoteStore as RealBox

SIZE = HOME.segment_size
THERE = "h:1"


class Spaces:
    """A client whose spaces note what is trimmed."""

    def __init__(self) -> None:
        self.trimmed: list[tuple[str, int]] = []
        self.unused: set[str] = set()
        self.problem: Exception | None = None

    def space(self, name: str):
        spaces = self

        class Space:
            async def trim(self, number: int) -> None:
                if name in spaces.unused:
                    raise NotAllocated("never voted")
                if spaces.problem is not None:
                    raise spaces.problem
                spaces.trimmed.append((name, number))

        return Space()


class Own(Site):
    """A site with what its initiator has finished, and what its vote store was told to forget."""

    def __init__(self, *managers: Manager, vote_store: VoteStore | None = None) -> None:
        super().__init__(*managers, vote_store=vote_store)
        self.client = self.spaces = Spaces()
        self.vote_store.forget = lambda *what: self.forgotten.append(what)
        self.forgotten: list[tuple] = []
        self.finished = Finished(self, self.spaces, self.patience)

    def done(self, numbers, **participants: str) -> None:
        for n in numbers:
            self.finished.add(TxId("me", n), plan_of(n, **participants) if participants else None)


def plan_of(number: int, **participants: str) -> Plan:
    """A plan of managers at addresses."""
    names, addresses = tuple(participants), tuple(participants.values())
    return Plan(TxId("me", number), names, addresses, "E3", "", 3.0)


async def test_a_segment_is_trimmed_where_anybody_voted_once_all_of_it_is_decided() -> None:
    site = Own(Manager("a"), Manager("b"), Manager("c"), Manager("d"))
    site.spaces.unused = {"tx/c/me"}
    site.done(range(SIZE, SIZE + 3), d="")
    site.done(range(3), a="", b="me:1")
    site.done(range(3, 5))
    site.done(range(5, SIZE - 1), a="", c="")
    await site.finished.trim()
    assert site.spaces.trimmed == []
    site.done([SIZE - 1])
    await site.finished.trim()
    assert sorted(site.spaces.trimmed) == [("tx/a/me", 0), ("tx/b/me", 0)]
    assert sorted(site.forgotten) == [("a", "me", 0), ("b", "me", 0)]
    assert site.metrics == {"segments_trimmed": 2}
    assert site.host.managers["d"].told == []
    await site.finished.trim()
    assert len(site.spaces.trimmed) == 2
    site.done(range(SIZE + 3, 2 * SIZE))
    await site.finished.trim()
    assert site.spaces.trimmed[2:] == [("tx/d/me", 1)]


@pytest.mark.parametrize("where", ["here", "at its own address", "elsewhere"])
async def test_a_segment_stays_while_anybody_holds_a_branch_of_it(where: str) -> None:
    manager = Manager("a")
    site = Own(manager)
    mine = HOME.gid("a", TxId("me", 2))
    address = {"here": "", "elsewhere": THERE}.get(where, site.address)

    def hold(*gids) -> None:
        manager.gids = list(gids)
        site.answer = messages.encode([str(g) for g in gids])

    hold(gid(), mine)
    site.done(range(SIZE), a=address)
    await site.finished.trim()
    assert site.spaces.trimmed == []
    hold(gid(), HOME.gid("a", TxId("me", SIZE)))
    await site.finished.trim()
    assert site.spaces.trimmed == [("tx/a/me", 0)]
    asked = [(THERE, ListPrepared("a"), site.patience)] * 2
    assert site.said == (asked if where == "elsewhere" else [])
    assert len(manager.told) == (0 if where == "elsewhere" else 2)


async def test_what_cannot_be_trimmed_now_holds_up_nothing_else(caplog) -> None:
    caplog.set_level(logging.INFO)
    site = Own(Manager("a"))
    site.answer = NoAnswer("silent")
    site.done(range(SIZE), b=THERE)
    site.done(range(SIZE, 2 * SIZE), a="")
    site.done(range(2 * SIZE, 3 * SIZE), z="")
    await site.finished.trim()
    assert site.spaces.trimmed == [("tx/a/me", 1)]
    assert "votes are trimmed later: silent" in caplog.text
    site.answer, site.host.managers["z"] = messages.encode([]), Manager("z")
    site.spaces.problem = Unavailable("no servers")
    await site.finished.trim()
    site.spaces.problem = None
    await site.finished.trim()
    assert sorted(site.spaces.trimmed[1:]) == [("tx/b/me", 0), ("tx/z/me", 2)]


async def test_what_was_decided_before_its_space_was_open_counts_too() -> None:
    site = Own(Manager("a"))
    site.host.vote_store.is_open = False
    site.done(range(SIZE - 1))
    await site.finished.trim()
    site.host.vote_store.is_open = True
    site.done([SIZE - 1], a="")
    for _ in range(2):
        await site.finished.trim()
    assert site.spaces.trimmed == [("tx/a/me", 0)]


async def test_what_nobody_knows_is_settled_before_its_segment_is_trimmed(caplog) -> None:
    caplog.set_level(logging.INFO)
    vote_store = VoteStore(a=vote("a", participants=("a", "b")))
    site = Own(Manager("a"), Manager("b"), vote_store=vote_store)
    read = vote_store.read

    async def silent(*_, **__):
        raise Unavailable("no servers")

    vote_store.read = silent
    site.done(range(1, SIZE))
    site.finished.leave_open(plan_of(0, a="", b=""))
    await site.finished.trim()
    assert (site.spaces.trimmed, vote_store.refused) == ([], [])
    assert "is still unknown: no servers" in caplog.text
    vote_store.read = read
    await site.finished.trim()
    assert vote_store.refused == ["b"]
    assert site.spaces.trimmed == [("tx/a/me", 0), ("tx/b/me", 0)]
    await site.finished.trim()
    assert len(site.spaces.trimmed) == 2


async def test_what_somebody_else_has_settled_and_trimmed_is_decided() -> None:
    vote_store = VoteStore()
    site = Own(Manager("a"), vote_store=vote_store)
    vote_store.trimmed = {"a"}
    site.done(range(1, SIZE))
    site.finished.leave_open(plan_of(0, a=""))
    await site.finished.trim()
    assert site.spaces.trimmed == [("tx/a/me", 0)]


def test_a_branch_is_of_a_segment_if_space_initiator_and_number_say_so() -> None:
    other = TransactionSpace("tx", "1" * 16, SIZE)
    cases = [
        (HOME.gid("a", TxId("me", SIZE)), True),
        (HOME.gid("b", TxId("me", 2 * SIZE - 1)), True),
        (HOME.gid("a", TxId("me", SIZE - 1)), False),
        (HOME.gid("a", TxId("me", 2 * SIZE)), False),
        (HOME.gid("a", TxId("you", SIZE)), False),
        (other.gid("a", TxId("me", SIZE)), False),
    ]
    for its, expected in cases:
        assert _any_of([its], HOME, "me", 1) is expected
        assert _any_of([cases[2][0], its, cases[3][0]], HOME, "me", 1) is expected
    assert _any_of([], HOME, "me", 1) is False


# ---------------------------------------------------------------- retiring


class SegmentTrimmed:
    """A transaction space with votes of initiators that are gone, and who retires them."""

    def __init__(self, worm, home: TransactionSpace, *managers: Manager) -> None:
        self.worm, self.home = worm, home
        self.managers = {m.name: m for m in managers}
        self.now = asyncio.get_running_loop().time
        self.vote_store = RealBox(worm, "tx", lambda *_: None)
        self.resolver = Resolver(self.vote_store, "janitor", lambda: 9.0, 5.0)

    async def vote(self, manager: str, number: int, at: float, initiator="j", yes=True) -> None:
        txid = TxId(initiator, number)
        its = Vote(yes, ("a", "b"), str(self.home.gid(manager, txid)), at, manager)
        await self.vote_store.refuse(manager, txid, its, deadline=self.now() + 5)

    async def retire(self, before: float, timeout: float = 60.0) -> list[str]:
        return await retire(
            self.worm, "tx", self.resolver, self.managers, before=before, timeout=timeout
        )


def gone(work, *managers: str, size: int = 4) -> None:
    async def run(worm) -> None:
        home = await open_space(worm, "tx", asyncio.get_running_loop().time() + 5)
        it = SegmentTrimmed(worm, home, *map(Manager, managers or "ab"))
        await it.vote_store.open(it.now() + 5)
        await work(it)
        await it.vote_store.close()

    with turned(tx_segment_size=size):
        virtually(run)


def test_initiators_whose_last_vote_is_old_are_retired_and_no_others(caplog) -> None:
    async def work(it: SegmentTrimmed) -> None:
        for number, at in ((0, 1.0), (1, 3.0), (5, 2.0)):
            await it.vote("a", number, at)
        await it.vote("b", 0, 1.0)
        await it.vote("a", 0, 2.9, "k")
        await it.vote("c", 0, 1.0, "l")
        await it.vote("a", 0, 1.0, "l")
        await it.worm.space("tx/b/m").alloc(it.home.stamp, it.home.segment_size)
        await it.worm.space("other/a/n").alloc(b"", 4)
        assert await it.retire(0.0) == []
        assert await it.retire(2.95) == ["tx/a/k/0", "tx/b/m/0"]
        assert await it.retire(3.0) == []
        assert await it.retire(3.01) == ["tx/a/j/0", "tx/a/j/1", "tx/b/j/0"]
        assert await it.retire(9.0) == []
        assert await it.worm.space("tx/a/j").head() == 2
        assert await it.worm.space("tx/a/l").head() == 0

    with caplog.at_level(logging.INFO):
        gone(work)
    assert "votes of l stay: not all of ['a', 'c'] can be asked" in caplog.text


def test_what_is_retired_is_decided_first_and_managers_obey() -> None:
    async def work(it: SegmentTrimmed) -> None:
        for number in (0, 1):
            await it.vote("a", number, 1.0)
        await it.vote("b", 0, 1.0)
        strangers = [
            TransactionSpace("tx", "1" * 16, 4).gid("a", TxId("j", 3)),
            *(it.home.gid("a", TxId(initiator, 0)) for initiator in "ik"),
        ]
        asked = []

        class Asked(Manager):
            async def prepared(self) -> list:
                segment = await it.worm.space(f"tx/{self.name}/j").segment(0)
                asked.append(all(await segment.read_range()))
                own = [it.home.gid(self.name, TxId("j", number)) for number in (0, 1)]
                return [*strangers[:2], *own, *strangers[2:]]

        it.managers = {name: Asked(name) for name in "ab"}
        assert await it.retire(2.0) == ["tx/a/j/0", "tx/b/j/0"]
        assert asked == [True, True], "nobody can be prepared any more, and commit"
        for name, manager in it.managers.items():
            ids = [("commit", TxId("j", 0)), ("abort", TxId("j", 1))]
            expected = [(did, it.home.gid(name, txid)) for did, txid in ids]
            assert sorted(manager.told, key=str) == sorted(expected, key=str)
        with pytest.raises(Trimmed):
            await it.worm.space("tx/a/j").segment(0)

    gone(work)


def test_votes_stay_while_a_manager_does_not_obey(caplog) -> None:
    async def work(it: SegmentTrimmed) -> None:
        await it.vote("a", 0, 1.0)
        it.managers["a"].gids = [it.home.gid("a", TxId("j", 0))]

        async def refuse(gid) -> None:
            raise ManagerDown("the database is down")

        it.managers["a"].abort, abort = refuse, it.managers["a"].abort
        assert await it.retire(2.0) == []
        assert await it.worm.space("tx/a/j").head() == 0
        it.managers["a"].abort = abort
        assert await it.retire(2.0) == [], "the no for b was written now"
        assert await it.retire(9.5) == ["tx/a/j/0", "tx/b/j/0"]

    with caplog.at_level(logging.INFO):
        gone(work)
    assert "votes of j stay: the database is down" in caplog.text


def test_who_is_not_reached_in_time_is_left_for_another_call(caplog) -> None:
    async def work(it: SegmentTrimmed) -> None:
        for initiator in "jkl":
            await it.vote("a", 0, 1.0, initiator)

        async def slow() -> list:
            await asyncio.sleep(2)
            return []

        it.managers["a"].prepared = slow
        assert await it.retire(2.0, timeout=2.0001) == ["tx/a/j/0"]
        with pytest.raises(ManagerDown, match="a did not say in time what it holds prepared"):
            await it.retire(2.0, timeout=1)
        assert await it.retire(2.0) == ["tx/a/k/0", "tx/a/l/0"]

    with caplog.at_level(logging.INFO):
        gone(work)
    assert "votes of k and others stay for now: the time was over" in caplog.text


def test_a_segment_is_sealed_around_the_votes_that_stand() -> None:
    async def work(it: SegmentTrimmed) -> None:
        for number in (9, 10, 13):
            await it.vote("a", number, 1.0)
        segment = await it.worm.space("tx/a/j").segment(1)
        watch = Watch(it.worm)
        await _seal(it.home, "j", "a", segment, it.now() + 5)
        assert watch.counts() == {"capture": 1, "write": 5}
        for offset, raw in enumerate(await segment.read_range()):
            found, txid = decode(raw), TxId("j", 8 + offset)
            if txid.number in (9, 10, 13):
                assert (found.yes, found.by) == (True, "a")
            else:
                says = str(it.home.gid("a", txid))
                assert found == Vote(False, (), says, 0.0, "", UNUSED)
        watch.clear()
        await _seal(it.home, "j", "a", segment, it.now() + 5)
        assert watch.counts() == {"capture": 1}

    gone(work, size=8)


def test_a_seal_begins_anew_while_others_vote_and_ends_at_its_deadline() -> None:
    async def work(it: SegmentTrimmed) -> None:
        await it.vote("a", 4, 1.0)
        segment = await it.worm.space("tx/a/j").segment(1)
        watch, left = Watch(it.worm), [3]

        def lose(name: str, given: tuple) -> None:
            if name == "write" and given[2] == 2 and left[0]:
                left[0] -= 1
                raise CaptureLost("quicker")

        watch.before = lose
        await _seal(it.home, "j", "a", segment, it.now() + 5)
        assert watch.clear()["capture"] == 4
        assert all(await segment.read_range())
        segment = await it.worm.space("tx/a/j").alloc(it.home.stamp, it.home.segment_size)
        watch.clear()
        left[0] = 1 << 20
        began = it.now()
        with pytest.raises(Unavailable, match=r"settling tx/a/j/2: other clients captured it"):
            await _seal(it.home, "j", "a", segment, began + 3)
        assert it.now() - began == pytest.approx(3)
        watch.before = lambda name, given: fail() if name == "write" else None
        with pytest.raises(Unavailable, match="no servers"):
            await _seal(it.home, "j", "a", segment, it.now() + 5)

    def fail() -> None:
        raise Unavailable("no servers")

    gone(work)


async def test_what_retiring_is_given_is_checked() -> None:
    client = object()
    fine = (client, "tx", resolver(VoteStore()), {"a": Manager("a")})
    for at, wrong, says in (
        (2, "me", "retired by a site's resolver, not 'me'"),
        (3, ["a"], "managers are a mapping"),
        (3, {"a": "a"}, "'a' is no resource manager"),
        (3, {"b": Manager("a")}, "'a' is passed as 'b'"),
        (0, client, "a connection is what"),
    ):
        given = [*fine]
        given[at] = wrong
        with pytest.raises(UsageError, match=says):
            await retire(*given, before=1.0)
