"""A transaction, with everybody else made up: what it begins, plans, says and leaves behind."""

from __future__ import annotations

import asyncio

import pytest
from tests.tx.pieces import HOME, Manager, Site, VoteStore, vote

from wormspace.errors import Closed, Trimmed, Unavailable, UsageError
from wormspace.tx import committing
from wormspace.tx.deciding import ABORTED, ALL_YES, COMMITTED, REASON_MAX, Decision, Vote, encode
from wormspace.tx.errors import (
    Aborted,
    Conflict,
    ManagerDown,
    OutcomeUnknown,
    TooLate,
    WrongManager,
)
from wormspace.tx.messages import Plan, Rollback
from wormspace.tx.names import TxId
from wormspace.tx.remote import RemoteStore
from wormspace.tx.resolver import OVER
from wormspace.tx.transaction import ROLLED_BACK, Transaction
from wormspace.tx.trimming import UNUSED
from wormspace.tx.variants import VARIANTS

ABORT = Decision(ABORTED, "b", "b", "full", True)


@pytest.fixture(autouse=True)
def commit(monkeypatch):
    """What came of a commit, and with what it was run; `answers` says or raises what comes."""

    class Commit:
        def __init__(self) -> None:
            self.runs, self.answers = [], []

        async def run(self, site, plan, branches, asked):
            self.runs.append((plan, dict(branches), asked))
            answer = self.answers.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return answer

    commit = Commit()
    monkeypatch.setattr(committing, "run", commit.run)
    return commit


def pair() -> list[Manager]:
    return [Manager("b"), Manager("a")]


# ---------------------------------------------------------------- to begin


async def test_it_begins_at_all_in_the_order_of_their_names_within_its_time() -> None:
    managers = [Manager(name) for name in "cab"]
    order: list[str] = []
    for manager in managers:
        begin = manager.begin

        async def noting(gid, timeout, begin=begin, name=manager.name):
            order.append(name)
            return await begin(gid, timeout)

        manager.begin = noting
    for opened in (True, False):
        site, store = Site(), RemoteStore("d", "h:1")
        site.host.vote_store.is_open = opened
        t = Transaction(site, [*managers, store], timeout=7.0)
        assert await t.__aenter__() is t
        assert order == ["a", "b", "c"]
        assert [1 for s in site.opened if 6 < s <= 7] == ([] if opened else [1])
        assert site.host.managers == {m.name: m for m in managers}
        for manager in managers:
            (gid, timeout), *more = manager.begun
            assert (gid, more) == (HOME.gid(manager.name, t.id), [])
            assert 6 < timeout <= 7
            assert t[manager] is manager.branch
            manager.begun.clear()
        assert t[store]._id == t.id
        order.clear()


async def test_each_is_the_database_that_its_name_means_before_any_begins() -> None:
    site, managers = Site(), [*pair(), Manager("c")]
    site.host.identities.held = {"a"}
    await Transaction(site, [*managers, RemoteStore("d", "h:1")]).__aenter__()
    assert site.host.identities.checked == [("b", True), ("c", True)]
    site, managers = Site(), pair()
    site.host.identities.problem = WrongManager("another", "x", "y")
    with pytest.raises(WrongManager):
        await Transaction(site, managers).__aenter__()
    assert [m.begun for m in managers] == [[], []]
    assert site.host.managers == {}, "another one of that name may come"


async def test_what_was_begun_is_undone_when_one_cannot_begin() -> None:
    site, managers = Site(), [Manager("a"), Manager("b", ManagerDown("gone")), Manager("c")]
    t = Transaction(site, managers)
    with pytest.raises(ManagerDown, match="gone"):
        await t.__aenter__()
    assert [m.branch.rolled_back for m in managers] == [1, 0, 0]
    assert managers[2].begun == []
    assert t.decision == ROLLED_BACK
    with pytest.raises(UsageError, match="me-0 was begun before"):
        await t.__aenter__()
    site.closed = True
    with pytest.raises(Closed):
        await Transaction(site, managers).__aenter__()


@pytest.mark.parametrize("names", ["a", "ab", ["a" * 20, "b"], [f"{n:020}" for n in range(45)]])
async def test_a_vote_that_no_register_takes_is_refused_with_its_size(names) -> None:
    site = Site()
    longest = max(names, key=len)
    its = TxId("me", 0)
    reason = "x" * REASON_MAX
    size = len(
        encode(Vote(False, tuple(names), str(HOME.gid(longest, its)), 0.0, "me", reason, True))
    )
    for limit, fits in ((size, True), (size - 1, False), (1, False), (1 << 20, True)):
        site.client.registers.max_value = limit
        managers = [Manager(name) for name in names]
        t = Transaction(site, managers)
        if fits:
            await t.__aenter__()
        else:
            says = f"take values of {limit} bytes, and a vote .* has up to {size}:"
            with pytest.raises(UsageError, match=says):
                await t.__aenter__()
        assert all(len(m.begun) == fits for m in managers)
        t.id = its


@pytest.mark.parametrize(
    ("participants", "says"),
    [
        ("a", "a list of resource managers, not 'a'"),
        ({"a"}, "a list of resource managers"),
        ([], "each once and by a name of its own"),
        ([Manager("a"), Manager("a")], "each once and by a name of its own"),
        ([Manager("a"), "b"], "'b' is no resource manager"),
    ],
)
async def test_what_takes_part_is_checked(participants, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Transaction(Site(), participants)


async def test_a_transaction_is_made_as_is_said() -> None:
    site = Site()
    for given in ({"variant": "Z9"}, {"timeout": 0}, {"tm": 1}):
        with pytest.raises(UsageError):
            Transaction(site, [Manager()], **given)
    assert Transaction(site, [Manager()]).id == TxId("me", 0), "no number is lost"
    t = Transaction(site, pair())
    assert (t.id, t.decision, t._fix_plan().timeout) == (TxId("me", 1), None, 5.0)
    stranger = Manager("a")
    mine = t._participants["a"]
    for wrong, says in (
        (stranger, "'a' takes no part"),
        (7, "7 takes no part"),
        (mine, "me-1 is not begun"),
    ):
        with pytest.raises(UsageError, match=says):
            t[wrong]


# ---------------------------------------------------------------- the plan


def model(variant, stores, here, used, everybody, address, tm) -> tuple | None:
    """Who takes part where, and who drives it; None if it cannot be run."""
    names = [n for n in (*here, *stores) if everybody or n in here or n in used]
    if not stores:
        return tuple(names), ("",) * len(names), ""
    at = ["h:" + n if n in stores else "" for n in names]
    if VARIANTS[variant].driven and any(at) and not all(at):
        if not address:
            return None
        at = [a or address for a in at]
    return tuple(names), tuple(at), tm or next((a for a in at if a), "")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("here", ["", "ab"])
@pytest.mark.parametrize("stores", ["", "s", "st"])
async def test_a_plan_says_who_takes_part_and_where(variant: str, here: str, stores: str) -> None:
    if not here + stores:
        return
    for used in ("", "s", "st"):
        for address in ("", "me:1"):
            for tm in ("", "x:1"):
                site = Site()
                site.address = address
                managers = [
                    *map(Manager, here),
                    *(RemoteStore(n, f"h:{n}"[:2] + "1") for n in stores),
                ]
                for store, name in zip(managers[len(here) :], stores, strict=True):
                    store.address = f"h:{name}"
                t = Transaction(site, managers, variant=variant, timeout=2.0, tm=tm)
                await t.__aenter__()
                for name in stores:
                    t._remote[name].used = name in used
                for everybody in (False, True):
                    expected = model(variant, stores, here, used, everybody, address, tm)
                    if expected is None:
                        with pytest.raises(UsageError, match=f"in variant {variant} a TM calls"):
                            t._fix_plan(everybody=everybody)
                        continue
                    names, at, driver = expected
                    plan = Plan(t.id, names, at, variant, driver, 2.0)
                    assert t._fix_plan(everybody=everybody) == plan


async def test_a_store_is_told_to_vote_in_one_variant_and_while_it_can() -> None:
    for variant in VARIANTS:
        t = Transaction(Site(), [RemoteStore("s", "h:1"), RemoteStore("t", "h:2")], variant=variant)
        await t.__aenter__()
        if variant != "F2":
            with pytest.raises(UsageError, match=f"only variant F2 does that, not {variant}"):
                t.plan_now("s")
            continue
        plan = t.plan_now("s")
        assert plan.participants == ("s", "t")
        assert t.plan_now("t") is plan
        assert t._asked == {"s", "t"}
        t.decision = ALL_YES
        with pytest.raises(UsageError, match="me-0 is over"):
            t.plan_now("s")


# ---------------------------------------------------------------- to commit


async def test_what_came_of_it_is_noted_and_said(commit) -> None:
    for decision, pending in ((ALL_YES, ()), (ALL_YES, ("a",)), (ABORT, ("b",)), (ABORT, ())):
        site, managers = Site(), pair()
        t = await Transaction(site, managers).__aenter__()
        commit.answers = [(decision, pending)]
        if decision is ALL_YES:
            assert await t.commit() is t.decision
        else:
            with pytest.raises(Aborted, match="transaction me-0 was aborted: b: full"):
                await t.commit()
        assert t.decision == Decision(
            decision.outcome, decision.culprit, decision.by, decision.reason, decision.conflict,
            pending,
        )  # fmt: skip
        plan = t._fix_plan()
        assert commit.runs == [(plan, {m.name: m.branch for m in managers}, frozenset())]
        assert site.finished.decided == [(t.id, plan)]
        assert (site.finished.open, site.left) == ([], [])
        assert site.metrics == {decision.outcome: 1}
        commit.runs.clear()
        for _ in range(2):  # it is said again, and not done again
            if decision is ALL_YES:
                assert await t.commit() is t.decision
            else:
                with pytest.raises(Aborted):
                    await t.commit()
        assert commit.runs == []


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        (Decision(ABORTED, "b", "b", "full"), "aborted: b: full"),
        (Decision(ABORTED, "b", "", "full"), "aborted: b: full"),
        (Decision(ABORTED, "b", "me", "full"), r"aborted: b \(said by me\): full"),
        (Decision(ABORTED, reason="over"), "aborted: nobody voted: over"),
    ],
)
async def test_who_said_no_and_why_is_said(decision: Decision, says: str, commit) -> None:
    t = await Transaction(Site(), pair()).__aenter__()
    commit.answers = [(decision, ())]
    with pytest.raises(Aborted, match=says) as caught:
        await t.commit()
    assert caught.value.decision == decision


async def test_what_nobody_knows_is_left_open(commit) -> None:
    for cause, left in ((Unavailable("x"), 0), (Trimmed("x"), 1), (None, 0)):
        site = Site()
        t = await Transaction(site, pair()).__aenter__()
        error = OutcomeUnknown("unknown", t.id, ("b", "a"))
        error.__cause__ = cause
        commit.answers = [error]
        with pytest.raises(OutcomeUnknown):
            await t.commit()
        assert site.finished.open == [t._fix_plan()]
        assert site.finished.decided == []
        assert site.left == [t.id] * left
        assert t.decision is None


@pytest.mark.parametrize(("reason", "left"), [(OVER.reason, 1), (UNUSED, 1), ("full", 0)])
async def test_votes_that_somebody_retired_are_gone_on_behind(reason, left: int, commit) -> None:
    site = Site()
    t = await Transaction(site, pair()).__aenter__()
    commit.answers = [(Decision(ABORTED, "b", "", reason), ())]
    with pytest.raises(Aborted):
        await t.commit()
    assert site.left == [t.id] * left


async def test_nobody_is_asked_where_nobody_was_used(commit) -> None:
    site, store = Site(), RemoteStore("s", "h:1")
    t = await Transaction(site, [store]).__aenter__()
    assert await t.commit() == ALL_YES
    assert (commit.runs, site.finished.decided) == ([], [(t.id, None)])


async def test_a_closed_site_commits_only_what_others_vote_on_already(commit) -> None:
    site, managers = Site(), pair()
    t = await Transaction(site, managers).__aenter__()
    site.closed = True
    with pytest.raises(Closed):
        await t.commit()
    assert [m.branch.rolled_back for m in managers] == [1, 1]
    assert t.decision == ROLLED_BACK
    site.closed = False
    t = await Transaction(site, [RemoteStore("s", "h:1")], variant="F2").__aenter__()
    plan = t.plan_now("s")
    site.closed = True
    commit.answers = [(ALL_YES, ())]
    assert await t.commit() == ALL_YES
    assert commit.runs == [(plan, {}, {"s"})]


# ---------------------------------------------------------------- not to commit


async def raising(t: Transaction, error: Exception) -> None:
    """A block that was begun, and raises."""
    try:
        raise error
    except BaseException as e:
        await t.__aexit__(type(e), e, e.__traceback__)
        raise


async def test_a_block_that_raises_rolls_back_and_one_that_has_ended_does_not(commit) -> None:
    for ended in (False, True):
        site, managers = Site(), pair()
        commit.answers, commit.runs = [(ALL_YES, ())], []
        t = await Transaction(site, managers).__aenter__()
        if ended:
            await t.commit()
        with pytest.raises(ZeroDivisionError):
            await raising(t, ZeroDivisionError())
        assert [m.branch.rolled_back for m in managers] == [not ended] * 2
        assert t.decision == (ALL_YES if ended else ROLLED_BACK)
        assert len(commit.runs) == ended
    commit.answers = [(ALL_YES, ())]
    async with Transaction(Site(), pair()) as t:
        assert t.decision is None
    assert t.decision == ALL_YES


async def test_a_rollback_is_everywhere_and_once() -> None:
    site, managers, store = Site(), pair(), RemoteStore("s", "h:1")
    t = await Transaction(site, [*managers, store]).__aenter__()
    t[store].used = True
    managers[0].branch.rollback = failing(ManagerDown("gone"))
    for _ in range(2):
        assert await t.rollback() == ROLLED_BACK == t.decision
    await asyncio.gather(*site.spawned)
    assert managers[1].branch.rolled_back == 1
    assert site.said == [("h:1", Rollback(t.id, "s"), 5.0)]
    assert site.finished.decided == [(t.id, None)]
    with pytest.raises(Aborted, match="nobody voted: its user rolled it back"):
        await t.commit()


def failing(error: Exception):
    async def fail() -> None:
        raise error

    return fail


async def test_a_rollback_that_fails_as_nobody_expects_says_so_once_all_are_rolled_back() -> None:
    site, managers = Site(), pair()
    t = await Transaction(site, managers).__aenter__()
    managers[0].branch.rollback = failing(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await t.rollback()
    assert (managers[1].branch.rolled_back, t.decision) == (1, ROLLED_BACK)


async def spontaneous(vote_store: VoteStore) -> tuple[Site, Transaction]:
    """One of whose stores was told to vote."""
    site = Site(vote_store=vote_store)
    stores = [RemoteStore("a", "h:1"), RemoteStore("b", "h:2")]
    t = await Transaction(site, stores, variant="F2", timeout=2.0).__aenter__()
    t.plan_now("a")
    return site, t


@pytest.mark.parametrize("late", [True, False])
async def test_stores_that_have_voted_are_called_off_if_it_is_not_too_late(late: bool) -> None:
    site, t = await spontaneous(VoteStore(a=vote("a"), **({"b": vote("b")} if late else {})))
    raised = ZeroDivisionError("mine")
    soon = site.loop.time() + 2.0
    with pytest.raises(TooLate if late else ZeroDivisionError) as caught:
        await raising(t, raised)
    assert all(soon <= at < soon + 1 for at in site.host.vote_store.deadlines)
    assert site.finished.decided == [(t.id, t._plan)]
    if late:
        assert caught.value.__cause__ is raised
        assert caught.value.decision is t.decision
        assert "me-0 was committed before the block raised ZeroDivisionError" in str(caught.value)
        assert t.decision == ALL_YES
    else:
        assert (t.decision.outcome, t.decision.culprit) == (ABORTED, "b")


async def test_what_cannot_be_called_off_is_unknown() -> None:
    site, t = await spontaneous(VoteStore())

    async def silent(*_, **__):
        raise Unavailable("no servers")

    site.host.vote_store.read = silent
    raised = ZeroDivisionError("mine")
    with pytest.raises(OutcomeUnknown, match="no servers") as caught:
        await raising(t, raised)
    assert caught.value.__cause__ is raised
    assert (t.decision, site.finished.open, site.finished.decided) == (None, [t._plan], [])


async def test_what_makes_sense_to_run_again() -> None:
    t = Transaction(Site(), [Manager("a"), Manager("b")])
    for error, again in (
        (Conflict("a lock"), True),
        (KeyError("the manager says so"), True),
        (ValueError("not"), False),
        (Aborted("full", Decision(ABORTED, conflict=True)), True),
        (Aborted("full", Decision(ABORTED, conflict=False)), False),
        (TooLate("late", Decision(COMMITTED)), False),
    ):
        assert t.is_conflict(error) is again


def test_an_error_says_its_message_and_what_it_is_of() -> None:
    its = TxId("j", 1)
    unknown = OutcomeUnknown("which?", its, ("a", "b"))
    assert (str(unknown), unknown.id, unknown.participants) == ("which?", its, ("a", "b"))
    for kind, decision in ((Aborted, ABORT), (TooLate, ALL_YES)):
        error = kind("how", decision)
        assert (str(error), error.decision) == ("how", decision)
    assert Aborted("how", ABORT).conflict is True
    wrong = WrongManager("which?", "meant", "found")
    assert (str(wrong), wrong.meant, wrong.found) == ("which?", "meant", "found")
