"""Names, votes and when they are forgotten."""

from __future__ import annotations

import asyncio
import errno
import inspect
import itertools
import os

import pytest
from prometheus_client import CollectorRegistry
from tests.tx.casting import cast

import wormspace
from wormspace import tx
from wormspace.errors import StoreError, StoreFull, Trimmed, UsageError
from wormspace.knobs import turned
from wormspace.store.memory_engine import MemoryEngine
from wormspace.tx import names
from wormspace.tx.deciding import (
    ABORTED,
    COMMITTED,
    MISSING,
    NO,
    UNDECIDED,
    YES,
    Vote,
    decode,
    encode,
    judge,
)
from wormspace.tx.mariadb import parse_xid, xid
from wormspace.tx.metrics import SiteMetrics
from wormspace.tx.storage import LmdbStore
from wormspace.tx.trimming import retire
from wormspace.tx.viewing import look, look_at

IDENTITY = "0123456789abcdef"


@pytest.mark.parametrize("votes", [*itertools.product([YES, NO, MISSING], repeat=3)])
def test_the_decision_is_the_and_of_the_votes(votes) -> None:
    expected = COMMITTED if set(votes) == {YES} else ABORTED if NO in votes else UNDECIDED
    assert tx.outcome(votes) == expected


@pytest.mark.parametrize("votes", [*itertools.product([YES, NO, MISSING], repeat=3)])
def test_an_outcome_never_changes_when_missing_votes_come(votes) -> None:
    before = tx.outcome(votes)
    for more in itertools.product([YES, NO], repeat=3):
        later = [new if old == MISSING else old for old, new in zip(votes, more, strict=True)]
        assert before in (UNDECIDED, tx.outcome(later))


def test_a_no_in_a_register_that_nobody_needed_decides_nothing() -> None:
    def vote(manager: str, yes: bool) -> Vote:
        return Vote(yes, ("a", "b"), "", 0.0, manager)

    votes = {"c": vote("c", False), "a": vote("a", True)}
    assert judge(("a", "b"), votes) is None
    decision = judge(("a", "b"), {**votes, "b": vote("b", True)})
    assert decision is not None
    assert decision.committed


def test_a_gid_says_where_the_vote_is_and_fits_into_databases() -> None:
    longest = "a" * names.NAME_MAX
    gid = tx.Gid("f" * 16, longest, longest, tx.TxId(longest, 10**18 - 1))
    assert tx.Gid.parse(str(gid)) == gid
    assert len(str(gid)) < 200
    first, second = (half.strip("'") for half in xid(gid).split(","))
    assert len(first) <= 64
    assert len(second) <= 64
    assert parse_xid(first, second) == str(gid)
    assert tx.TxId.parse(str(gid.id)) == gid.id


def test_what_others_prepared_is_none_of_ours() -> None:
    assert tx.Gid.parse("somebody else's") is None
    assert tx.Gid.parse("worm:tx:a:") is None
    assert parse_xid("1234", "") == ""


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:b", "a-b", "x" * 21, "é"])
def test_a_name_that_databases_could_not_carry_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        names.check_name(name)


def test_a_vote_reads_back() -> None:
    vote = tx.Vote(False, ("a", "b"), "worm:tx:a:j-1", 12.5, "a", "no room", True)
    assert decode(encode(vote)) == vote
    with pytest.raises(wormspace.ProtocolViolation):
        decode(b"something else")


@pytest.fixture
def short_segments():
    """Vote segments of eight registers."""
    with turned(tx_segment_size=8):
        yield


async def stores(tmp_path) -> list[tx.KeyValueStore]:
    return [await tx.KeyValueStore.open(n, LmdbStore(tmp_path / n)) for n in ("a", "b")]


async def put(worm, participants, value: bytes) -> tx.Transaction:
    async with worm.transaction(participants) as t:
        for p in participants:
            await t[p].put(b"k", value)
    return t


async def test_votes_are_trimmed_once_everybody_has_acted_and_not_before(
    tmp_path, short_segments
) -> None:
    async with wormspace.connect("memory:") as worm:
        a, b = await stores(tmp_path)
        site = worm.site()
        done = [await put(worm, [a, b], b"%d" % n) for n in range(7)]
        stuck = asyncio.Event()
        commit = b.commit

        async def hang(gid):
            await stuck.wait()
            await commit(gid)

        b.commit = hang
        last = asyncio.ensure_future(put(worm, [a, b], b"last"))
        while not await b.prepared() or await a.prepared():  # noqa: ASYNC110 - stores have no event
            await asyncio.sleep(0.01)
        await site.recover()
        space = worm.space(f"tx/b/{site.initiator}")
        assert await space.head() == 0
        assert decode(await (await space.segment(0)).read(7)).yes
        stuck.set()
        done.append(await last)
        while await b.prepared():  # noqa: ASYNC110 - the outcome becomes durable
            await asyncio.sleep(0.01)
        await site.recover()
        for name in ("a", "b"):
            assert await worm.space(f"tx/{name}/{site.initiator}").head() == 1
        assert site.metrics["segments_trimmed"] == 2
        with pytest.raises(Trimmed):
            await site.settle(done[0].id, ("a", "b"))
        await put(worm, [a, b], b"next segment")
        assert a.value(b"k") == b"next segment"
        await site.close()
        for store in (a, b):
            await store.close()


async def test_a_branch_found_after_its_votes_were_trimmed_was_not_committed(
    tmp_path, short_segments
) -> None:
    async with wormspace.connect("memory:") as worm:
        a, b = await stores(tmp_path)
        gone = tx.Site(worm)
        txid = gone.new_id()
        branch = await a.begin((await gone.open()).gid("a", txid))
        await branch.put(b"k", b"late")
        vote = tx.Vote(True, ("a", "b"), "", 1.0, "b")
        await cast(gone, "b", txid, vote)
        await gone.close()
        janitor = tx.Site(worm, managers=[a, b])
        trimmed = await retire(worm, "tx", janitor.host.resolver, janitor.host.managers, before=2.0)
        assert trimmed == [f"tx/b/{txid.initiator}/0"]
        await branch.prepare()  # the slow participant prepares only now
        assert len(await a.prepared()) == 1
        await janitor.recover(patience_s=0)
        while await a.prepared():  # noqa: ASYNC110 - the outcome becomes durable
            await asyncio.sleep(0.01)
        assert a.value(b"k") is None
        await janitor.close()
        for store in (a, b):
            await store.close()


async def test_retiring_decides_what_is_not_and_commits_what_is_committed(
    tmp_path, short_segments
) -> None:
    async with wormspace.connect("memory:") as worm:
        managers = await stores(tmp_path)
        gone = tx.Site(worm)
        for complete in (True, False):
            txid = gone.new_id()
            for m in managers if complete else managers[:1]:
                gid = (await gone.open()).gid(m.name, txid)
                branch = await m.begin(gid)
                await branch.put(b"%d" % complete, b"v")
                await branch.prepare()
                vote = tx.Vote(True, ("a", "b"), str(gid), 1.0, m.name)
                await cast(gone, m.name, txid, vote)
        await gone.close()
        janitor = tx.Site(worm, managers=managers)
        young = await retire(worm, "tx", janitor.host.resolver, janitor.host.managers, before=0.5)
        assert young == []
        await retire(worm, "tx", janitor.host.resolver, janitor.host.managers, before=2.0)
        for m in managers:
            while await m.prepared():  # noqa: ASYNC110 - the outcome becomes durable
                await asyncio.sleep(0.01)
            assert m.items() == {b"1": b"v"}
            with pytest.raises(Trimmed):
                await worm.space(f"tx/{m.name}/{gone.initiator}").segment(0)
        await janitor.close()
        for store in managers:
            await store.close()


class Watched:
    """Registers that note by when each call is to be over."""

    def __init__(self, registers) -> None:
        self._registers = registers
        self.deadlines = []

    def __getattr__(self, name):
        found = getattr(self._registers, name)
        if not inspect.ismethod(found) or "deadline" not in inspect.signature(found).parameters:
            return found

        def call(*given, **named):
            bound = inspect.signature(found).bind(*given, **named)
            self.deadlines.append((name, bound.arguments["deadline"]))
            return found(*given, **named)

        return call


@pytest.mark.parametrize("what", ["look", "look at", "retire"])
async def test_all_steps_of_looking_and_retiring_have_one_deadline(
    what, tmp_path, short_segments
) -> None:
    async with wormspace.connect("memory:") as worm:
        managers = await stores(tmp_path)
        gone = tx.Site(worm)
        for _ in range(10):
            txid = gone.new_id()
            gid = (await gone.open()).gid("a", txid)
            branch = await managers[0].begin(gid)
            await branch.put(b"%d" % txid.number, b"v")
            await branch.prepare()
            await cast(gone, "a", txid, tx.Vote(True, ("a", "b"), str(gid), 1.0, "a"))
        await gone.close()
        janitor = tx.Site(worm, managers=managers)
        worm.registers = watched = Watched(worm.registers)
        latest = asyncio.get_running_loop().time() + 7.0
        if what == "look":
            assert len(await look(worm, "tx", timeout=7.0)) == 10
        elif what == "look at":
            assert await look_at(worm, "tx", txid, timeout=7.0)
        else:
            given = {"before": 2.0, "timeout": 7.0}
            assert await retire(worm, "tx", janitor.host.resolver, janitor.host.managers, **given)
        assert len(watched.deadlines) > 3
        late = [(name, at - latest) for name, at in watched.deadlines if at > latest + 1.0]
        assert not late, "seconds beyond the deadline"
        await janitor.close()
        for store in managers:
            await store.close()


async def test_a_manager_that_says_nothing_is_asked_no_longer_than_the_call_may_take(
    tmp_path, short_segments
) -> None:
    class Silent(tx.KeyValueStore):
        async def prepared(self):
            await asyncio.sleep(3600)

    async with wormspace.connect("memory:") as worm:
        gone, janitor = tx.Site(worm), tx.Site(worm)
        await cast(gone, "a", gone.new_id(), tx.Vote(True, ("a",), "", 1.0, "a"))
        silent = await Silent.open("a", MemoryEngine())
        with pytest.raises(tx.ManagerDown, match="did not say in time"):
            await retire(worm, "tx", janitor.host.resolver, {"a": silent}, before=2.0, timeout=0.2)
        for each in (gone, janitor, silent):
            await each.close()


async def test_a_store_remembers_promises_and_locks_across_a_restart(tmp_path) -> None:
    store = await tx.KeyValueStore.open("a", LmdbStore(tmp_path / "a"))
    gid = tx.Gid(IDENTITY, "tx", "a", tx.TxId("j", 0))
    branch = await store.begin(gid)
    await branch.get(b"read")
    await branch.put(b"written", b"v")
    await branch.prepare()
    await store.close()
    store = await tx.KeyValueStore.open("a", LmdbStore(tmp_path / "a"))
    assert await store.prepared() == [gid]
    other = await store.begin(tx.Gid(IDENTITY, "tx", "a", tx.TxId("j", 1)))
    with pytest.raises(tx.Conflict):
        await other.put(b"read", b"x")
    await store.commit(gid)
    await store.commit(gid)
    other = await store.begin(tx.Gid(IDENTITY, "tx", "a", tx.TxId("j", 2)))
    assert await other.get(b"written") == b"v"
    await store.close()
    with pytest.raises(wormspace.WrongIdentity):
        await tx.KeyValueStore.open("b", LmdbStore(tmp_path / "a"))


async def test_a_conflict_restarts_at_once_and_says_whose_fault_it_was(tmp_path) -> None:
    async with wormspace.connect("memory:") as worm:
        a, b = await stores(tmp_path)
        async with worm.transaction([a, b]) as first:
            await first[a].put(b"k", b"1")
            second = worm.transaction([a, b])
            await second.__aenter__()
            with pytest.raises(tx.Conflict):
                await second[a].get(b"k")
            with pytest.raises(tx.Aborted) as caught:
                await second.commit()
            assert caught.value.conflict
        assert a.value(b"k") == b"1"

        async def add(t) -> None:
            await t[a].put(b"n", b"%d" % (int(await t[a].get(b"n") or 0) + 1))
            await t[b].put(b"n", await t[a].get(b"n"))

        runs = (worm.run_transaction([a, b], add) for _ in range(5))
        await asyncio.gather(*runs)
        assert a.value(b"n") == b.value(b"n") == b"5"
        await worm.site().close()
        for store in (a, b):
            await store.close()


@pytest.mark.parametrize("variant", tx.VARIANTS)
async def test_a_store_here_and_one_elsewhere_commit_together(tmp_path, variant) -> None:
    async with wormspace.connect("memory:") as worm:
        a, b = await stores(tmp_path)
        there = tx.Site(worm, managers=[b], patience_s=1000.0)  # nobody is helped by a recovery
        remote = tx.RemoteStore("b", await there.start("127.0.0.1"))
        here = tx.Site(worm, managers=[a], patience_s=1000.0)
        await here.start("127.0.0.1")
        for n in range(3):
            async with tx.Transaction(here, [a, remote], variant=variant) as t:
                await t[a].put(b"k", b"%d" % n)
                await t[remote].put(b"k", b"%d" % n)
                assert await t[remote].get(b"k") == b"%d" % n
            assert t.decision.committed
            async with asyncio.timeout(10):
                while b.value(b"k") != b"%d" % n:  # noqa: ASYNC110 - b learns it by itself
                    await asyncio.sleep(0.001)
            assert a.value(b"k") == b"%d" % n
        for site in (here, there):
            assert not site.host.in_flights.open
            await site.close()
        await remote.close()
        for store in (a, b):
            await store.close()


async def test_a_manager_that_is_gone_aborts_at_once(tmp_path) -> None:
    async with wormspace.connect("memory:") as worm:
        a, b = await stores(tmp_path)
        there = tx.Site(worm, managers=[b])
        remote = tx.RemoteStore("b", await there.start("127.0.0.1"))
        here = tx.Site(worm, managers=[a])
        t = tx.Transaction(here, [a, remote], timeout=20.0)
        await t.__aenter__()
        await t[a].put(b"k", b"v")
        await t[remote].put(b"k", b"v")
        await there.close()
        began = asyncio.get_running_loop().time()
        with pytest.raises(tx.Aborted) as caught:
            await t.commit()
        assert asyncio.get_running_loop().time() - began < 10
        assert caught.value.decision.culprit == "b"
        assert a.value(b"k") is None
        await here.close()
        for store in (a, b):
            await store.close()


@pytest.mark.parametrize("variant", tx.VARIANTS)
async def test_a_participant_that_votes_after_the_abort_learns_so_and_rolls_back(
    tmp_path, variant
) -> None:
    async with wormspace.connect("memory:") as worm:
        a, b = await stores(tmp_path)
        slow = asyncio.Event()
        promise = b.promise

        async def late(*arguments) -> None:
            await promise(*arguments)
            await slow.wait()

        b.promise = late
        sites = [tx.Site(worm, managers=[store]) for store in (a, b)]
        remotes = [
            tx.RemoteStore(name, await site.start("127.0.0.1"))
            for name, site in zip(("a", "b"), sites, strict=True)
        ]
        app = tx.Site(worm)
        transaction = tx.Transaction(app, remotes, variant=variant, timeout=0.5)

        async def work() -> None:
            async with transaction as t:
                for remote in remotes:
                    await t[remote].put(b"k", b"v")

        with pytest.raises(tx.Aborted) as caught:
            await work()
        assert caught.value.decision.culprit == "b"
        slow.set()
        while await a.prepared() or await b.prepared():
            await asyncio.sleep(0.01)
            await asyncio.gather(*(site.recover(patience_s=0.2) for site in sites))
        assert a.value(b"k") is b.value(b"k") is None
        for site in (app, *sites):
            await site.close()
        for store in (a, b):
            await store.close()


async def test_a_site_shows_its_metrics_to_prometheus(tmp_path) -> None:
    async with wormspace.connect("memory:") as worm:
        a, b = await stores(tmp_path)
        await put(worm, [a, b], b"v")
        abandoned = await a.begin(worm.site().host.gid("a", tx.TxId("gone", 0)))
        await abandoned.put(b"other", b"v")
        await abandoned.prepare()
        site = worm.site()
        while len(await a.prepared()) > 1 or await b.prepared():  # noqa: ASYNC110 - durable soon
            await asyncio.sleep(0.01)
        await site.recover(patience_s=1000)
        registry = CollectorRegistry()
        registry.register(SiteMetrics(site))
        label = {"space": "tx"}

        def figure(name: str) -> float | None:
            return registry.get_sample_value(f"wormspace_tx_{name}", label)

        assert figure("committed_total") == 1
        assert figure("votes_yes_total") == 2
        assert figure("votes_no_total") == figure("left_to_recover_total") == 0
        assert figure("prepared") == 1
        assert figure("under_way") == 0
        await site.recover(patience_s=0)
        assert figure("resolved_total") == 1
        await site.close()
        for store in (a, b):
            await store.close()


async def test_a_store_that_was_told_to_vote_takes_no_more_work(tmp_path) -> None:
    async with wormspace.connect("memory:") as worm:
        a, b = await stores(tmp_path)
        there = tx.Site(worm, managers=[a, b])
        address = await there.start("127.0.0.1")
        remotes = [tx.RemoteStore(name, address) for name in ("a", "b")]
        app = tx.Site(worm)
        async with tx.Transaction(app, remotes, variant="F2") as t:
            for remote in remotes:
                await t[remote].put(b"k", b"v", last=True)
            with pytest.raises(UsageError, match="nothing more comes"):
                await t[remotes[0]].put(b"k", b"lost")
        assert t.decision.committed
        async with tx.Transaction(app, remotes) as t:
            with pytest.raises(UsageError, match="variant='F2'"):
                await t[remotes[0]].put(b"k", b"v", last=True)
            assert await t[remotes[0]].get(b"k") == b"v"
        for site in (app, there):
            await site.close()
        for store in (a, b):
            await store.close()


async def test_a_store_whose_disk_has_failed_can_be_closed(tmp_path, monkeypatch) -> None:
    """And what it could not write is known to the votes: the branch is still prepared."""
    store = await tx.KeyValueStore.open("a", LmdbStore(tmp_path / "a"))
    gid = tx.Gid(IDENTITY, "tx", "a", tx.TxId("j", 0))
    branch = await store.begin(gid)
    await branch.put(b"k", b"v")
    await branch.prepare()

    def failing(*_):
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as disk:
        disk.setattr(os, "pwritev", failing)
        assert store.commit(gid).done()
        other = await store.begin(tx.Gid(IDENTITY, "tx", "a", tx.TxId("j", 1)))
        await other.put(b"k", b"w")
        with pytest.raises(tx.ManagerDown, match="disk failed"):
            await other.prepare()
        with pytest.raises(tx.ManagerDown, match="open it again"):
            await store.begin(gid)
        await store.close()
    store = await tx.KeyValueStore.open("a", LmdbStore(tmp_path / "a"))
    assert await store.prepared() == [gid]
    await store.close()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "?"), MemoryError(), ValueError("a bug"), StoreError("it has failed")],
)
async def test_a_store_that_fails_in_a_way_that_nobody_expected_ends(tmp_path, error) -> None:
    """Nothing is built on a batch of which nobody knows whether it is there; others go on."""
    engine = LmdbStore(tmp_path)
    store = await tx.KeyValueStore.open("a", engine)
    gids = [tx.Gid(IDENTITY, "tx", "a", tx.TxId("j", n)) for n in range(4)]
    first, second, third = [await store.begin(gid) for gid in gids[:3]]
    await first.put(b"k", b"v")
    await first.prepare()
    commit, engine.commit = engine.commit, failing_with(error)
    await second.put(b"l", b"w")
    with pytest.raises(tx.ManagerDown, match="open it again"):
        await second.prepare()
    engine.commit = commit
    for call in (
        lambda: store.begin(gids[3]),
        lambda: third.get(b"x"),
        lambda: store.commit(gids[0]),
        store.prepared,
    ):
        with pytest.raises(tx.ManagerDown, match="failed half-way"):
            await call()
    async with asyncio.timeout(5):
        await store.close()
    again = await tx.KeyValueStore.open("a", LmdbStore(tmp_path))
    assert await again.prepared() == [gids[0]]
    await again.commit(gids[0])
    assert again.value(b"k") == b"v"
    await again.close()


async def test_a_full_store_refuses_promises_and_keeps_outcomes_until_there_is_room(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("wormspace.tx.kv.RETRY_S", 0.01)
    engine = LmdbStore(tmp_path)
    store = await tx.KeyValueStore.open("a", engine)
    gids = [tx.Gid(IDENTITY, "tx", "a", tx.TxId("j", n)) for n in range(3)]
    first, second, third = [await store.begin(gid) for gid in gids]
    await first.put(b"k", b"v")
    await first.prepare()
    commit, engine.commit = engine.commit, failing_with(StoreFull("no room"))
    await second.put(b"l", b"w")
    with pytest.raises(tx.CannotPrepare, match="no room"):
        await second.prepare()
    await store.commit(gids[0])
    await asyncio.sleep(0.1)
    assert (await third.get(b"k"), await store.prepared()) == (b"v", [gids[0]])
    engine.commit = commit
    async with asyncio.timeout(5):
        while await store.prepared():  # noqa: ASYNC110 - the outcome becomes durable
            await asyncio.sleep(0.01)
    await store.close()


def failing_with(error: Exception):
    """A commit that fails so."""

    async def commit(batch) -> None:
        raise error

    return commit
