"""The resolver and the recovery, with everybody else made up."""

from __future__ import annotations

import asyncio

import pytest
from tests.tx.pieces import (
    AT,
    HOME,
    Branch,
    Manager,
    Site,
    VoteStore,
    gid,
    part_of,
    plan,
    resolver,
    vote,
)

from wormspace.errors import UsageError, WormError
from wormspace.knobs import turned
from wormspace.tx import messages, remote
from wormspace.tx.deciding import ABORTED, ALL_YES, Vote, refusal
from wormspace.tx.errors import ManagerDown, NoIdentity, WrongManager
from wormspace.tx.names import Gid, TxId
from wormspace.tx.recovery import ASK_S, Recovery
from wormspace.tx.remote import RemoteStore
from wormspace.tx.resolver import GAVE_UP, OVER, Resolution
from wormspace.tx.space import TransactionSpace


def given_up(manager: str, participants: tuple[str, ...]) -> Vote:
    return Vote(False, participants, str(gid(manager)), AT, "me", GAVE_UP)


async def test_who_has_not_voted_has_voted_no_and_only_who_is_not_known_is_asked() -> None:
    vote_store = VoteStore(a=vote("a"))
    decision = await resolver(vote_store).settle(TxId("j", 1), ("a", "b", "c"), {"c": vote("c")})
    assert vote_store.asked == [("a", TxId("j", 1)), ("b", TxId("j", 1))]
    assert vote_store.votes == {"a": vote("a"), "b": given_up("b", ("a", "b", "c"))}
    assert decision == refusal("b", vote_store.votes["b"])
    now = asyncio.get_running_loop().time()
    [deadline] = vote_store.deadlines
    assert now < deadline <= now + 5


async def test_votes_that_stand_decide_and_nobody_writes() -> None:
    vote_store = VoteStore(a=vote("a"), b=vote("b"))
    assert await resolver(vote_store).settle(TxId("j", 1), ("a", "b"), deadline=7.0) == ALL_YES
    assert vote_store.deadlines == {7.0}
    vote_store.votes["b"] = vote("b", yes=False)
    known = {"a": vote("a")}
    decision = await resolver(vote_store).settle(TxId("j", 1), ("a", "b", "c"), known, deadline=7.0)
    assert decision == refusal("b", vote("b", yes=False))
    assert known == {"a": vote("a")}
    assert vote_store.refused == []


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ({"a": vote("a"), "b": vote("b")}, ALL_YES),
        ({"a": vote("a", yes=False), "b": vote("b")}, refusal("a", vote("a", yes=False))),
        ({"a": vote("a")}, refusal("b", given_up("b", ("a", "b")))),
        ({"b": vote("b")}, refusal("a", given_up("a", ()))),
    ],
)
async def test_a_branch_is_decided_by_its_own_vote_and_those_that_it_names(votes, expected) -> None:
    vote_store = VoteStore(**votes)
    votes = dict(votes)
    assert await resolver(vote_store).decide(gid()) == expected
    asked = [manager for manager, _ in vote_store.asked]
    assert asked == (["a", "b"] if "a" in votes and votes["a"].yes else ["a"])
    assert vote_store.refused == [manager for manager in asked if manager not in votes]
    assert len(vote_store.deadlines) == 1


async def test_what_is_trimmed_was_not_committed_and_other_spaces_are_left_alone() -> None:
    vote_store = VoteStore(a=vote("a"))
    vote_store.trimmed = {"b"}
    assert await resolver(vote_store).decide(gid()) is OVER
    assert OVER.outcome == ABORTED
    vote_store.deadlines.clear()
    await resolver(vote_store).decide(gid(), deadline=7.0)
    assert vote_store.deadlines == {7.0}
    other = Gid("1" * 16, "tx", "a", TxId("j", 1))
    with pytest.raises(UsageError, match="belongs to no transaction of space 'tx'"):
        await resolver(vote_store).decide(other)
    vote_store.made = False
    with pytest.raises(UsageError, match="belongs to no transaction"):
        await resolver(vote_store).decide(gid())


@pytest.mark.parametrize(("yes", "told"), [(True, "commit"), (False, "abort")])
async def test_the_manager_obeys(yes: bool, told: str) -> None:
    vote_store, manager = VoteStore(a=vote("a", yes), b=vote("b")), Manager()
    found = await resolver(vote_store).finish(manager, gid())
    assert manager.told == [(told, gid())]
    assert (found.gid, found.problem) == (gid(), "")
    assert found.decision is not None
    assert found.decision.committed == yes


async def test_what_cannot_be_finished_says_why() -> None:
    vote_store = VoteStore(a=vote("a"), b=vote("b"))
    problem = await resolver(vote_store).finish(Manager(problem=ManagerDown("gone")), gid())
    assert problem == Resolution(gid(), None, "gone")

    class Slow(Manager):
        async def _do(self, *what: object) -> None:
            await asyncio.Event().wait()

    problem = await resolver(vote_store, 0.01).finish(Slow(), gid())
    assert problem == Resolution(gid(), None, "a did not obey within 0.01 s")
    with pytest.raises(ZeroDivisionError):
        await resolver(vote_store).finish(Manager(problem=ZeroDivisionError()), gid())


async def test_many_are_finished_some_at_a_time() -> None:
    vote_store, manager = VoteStore(a=vote("a"), b=vote("b")), Manager()
    with turned(tx_resolved_at_once=3):
        found = await resolver(vote_store).finish_all((manager, gid(number=n)) for n in range(7))
    assert [one.gid.id.number for one in found] == list(range(7))
    assert manager.most == 3


# ---------------------------------------------------------------- the recovery


def recovery(site: Site) -> Recovery:
    made = Recovery(site, site.finished, site.patience, site.idle)
    for manager in site.host.managers.values():
        made.watch(manager)
    return made


def stop(made: Recovery) -> None:
    made._host.tasks.cancel()


async def test_the_recover_resolves_what_has_been_prepared_for_long_and_nobody_works_on() -> None:
    manager, vote_store = Manager(), VoteStore(a=vote("a"), b=vote("b"))
    site = Site(manager, vote_store=vote_store)
    made = recovery(site)
    other = Gid("1" * 16, "tx", "a", TxId("k", 1))
    manager.gids = [gid(number=1), gid(number=2), gid("b"), gid("A"), other]
    assert await made.recover(10.0) == []
    assert made.gauges() == {
        "prepared": 2,
        "prepared_left_alone": 0,
        "prepared_longest_seconds": 0.0,
    }
    site.time += 6
    manager.gids.append(gid(number=3))
    site.host.in_flights.join(TxId("j", 2), ("a", "b"))
    assert await made.recover(10.0) == []
    site.time += 4
    assert [one.gid for one in await made.recover(10.0)] == [gid(number=1)]
    assert ("commit", gid(number=1)) in manager.told
    assert site.metrics["resolved"] == 1
    assert made.left_alone(10.0) == [other]
    assert made.left_alone(10.1) == []
    assert made.gauges() == {
        "prepared": 3,
        "prepared_left_alone": 1,
        "prepared_longest_seconds": 10.0,
    }
    assert site.finished.trims == 3
    site.time += 1  # it was not told durably, so it is told again
    assert [one.gid for one in await made.recover(10.0)] == [gid(number=1)]
    manager.gids = []
    await made.recover(0)
    assert made.gauges()["prepared"] == made.gauges()["prepared_left_alone"] == 0
    stop(made)


async def test_what_is_not_ours_is_told_once_as_long_as_it_is_there(caplog) -> None:
    manager = Manager()
    site = Site(manager)
    made = recovery(site)
    other = Gid("1" * 16, "tx", "a", TxId("k", 1))
    manager.gids = [other]
    told = []
    for gids, passed in (([other], 0), ([other], 10), ([other], 10), ([], 0), ([other], 10)):
        manager.gids = gids
        site.time += passed
        await made.recover(10.0)
        told.append(caplog.text.count("it is left alone"))
    site.time += 10
    await made.recover(10.0)
    assert told == [0, 1, 1, 1, 1]
    assert caplog.text.count("it is left alone") == 2
    site.host.vote_store.made = False  # nobody has made a transaction space: then nothing is ours
    manager.gids = [gid()]
    assert await made.recover(0) == []
    assert made.left_alone(0) == [gid()]
    stop(made)


@pytest.mark.parametrize(
    ("problem", "says"), [(ManagerDown("gone"), "gone"), (TimeoutError(), "no answer within 15 s")]
)
async def test_a_manager_that_does_not_say_what_it_holds_is_asked_again(
    problem, says: str, caplog
) -> None:
    manager, well = Manager(problem=problem), Manager("b")
    site = Site(manager, well, vote_store=VoteStore(a=vote("a"), b=vote("b")))
    made = recovery(site)
    well.gids = [gid("b")]
    assert [one.gid for one in await made.recover(0)] == [gid("b")]
    assert f"a cannot be asked what it holds prepared: {says}" in caplog.text
    manager.problem, manager.gids = None, [gid()]
    made.unwatch("b")
    assert [one.gid for one in await made.recover(0)] == [gid()]
    assert len(made._host.tasks) == 2
    stop(made)


@pytest.mark.parametrize(("made", "checked"), [(True, [("a", False)]), (False, [])])
async def test_a_manager_is_who_its_name_means_before_it_is_asked(made: bool, checked) -> None:
    manager = Manager()
    site = Site(manager)
    site.host.vote_store.made = made
    swept = recovery(site)
    await swept.recover(0)
    assert site.host.identities.checked == checked
    manager.told.clear()
    for problem, error in (
        (WrongManager("another", "x", "y"), WrongManager),
        (NoIdentity("run this"), NoIdentity),
        (ManagerDown("gone"), None),
    ):
        site.host.identities.problem = problem
        if made and error is not None:
            with pytest.raises(error):
                await swept.recover(0)
        else:
            assert await swept.recover(0) == []
    assert manager.told == ([] if made else [("prepared",)] * 3)
    stop(swept)


async def test_a_manager_that_does_not_obey_is_not_counted_as_resolved() -> None:
    manager = Manager()
    site = Site(manager, vote_store=VoteStore(a=vote("a"), b=vote("b")))
    made = recovery(site)
    manager.gids = [gid()]
    manager.commit = Manager(problem=ManagerDown("gone")).commit
    [found] = await made.recover(0)
    assert found.problem == "gone"
    assert site.metrics["resolved"] == 0
    stop(made)


@pytest.mark.parametrize(
    ("since", "deadline", "decided"),
    [
        (90.0, float("inf"), True),
        (90.1, float("inf"), False),
        (0.0, 100.1, False),
        (0.0, 100.0, True),
        (0.0, 99.9, True),
    ],
)
async def test_a_transaction_that_nobody_decides_is_resolved(since, deadline, decided) -> None:
    site = Site(vote_store=VoteStore(a=vote("a"), b=vote("b")))
    made = recovery(site)
    in_flight = site.host.in_flights.join(TxId("j", 1), ("a", "b"))
    in_flight.since, in_flight.deadline = since, deadline
    await made.recover(10.0)
    assert in_flight.decision == (ALL_YES if decided else None)
    asked = len(site.host.vote_store.asked)
    await made.recover(10.0)
    assert len(site.host.vote_store.asked) == asked
    stop(made)


@pytest.mark.parametrize("has_parts", [False, True])
async def test_a_transaction_whose_votes_are_trimmed_is_over_for_its_parts(has_parts) -> None:
    site = Site(Manager())
    site.host.vote_store.trimmed = {"a"}
    made = recovery(site)
    if has_parts:
        _, in_flight = part_of(site, Branch(), plan())
    else:
        in_flight = site.host.in_flights.join(TxId("j", 1), ("a", "b"))
    in_flight.since = 0.0
    await made.recover(10.0)
    assert in_flight.decision == (OVER if has_parts else None)
    stop(made)


async def test_work_that_its_user_left_behind_is_rolled_back() -> None:
    site = Site()
    made = recovery(site)
    old, busy, own = Branch(), Branch(), Branch()
    site.host.kept._kept = {
        (TxId("j", 1), "a"): (old, 96.0),
        (TxId("j", 2), "a"): (busy, 96.1),
        (TxId("me", 1), "a"): (own, 0.0),
        (TxId("z", 1), "a"): (older := Branch(), 1.0),
    }
    taken = site.host.kept.take
    site.host.kept.take = lambda txid, name: taken(txid, name) if name == "a" else None
    site.host.kept._kept[TxId("j", 3), "b"] = (Branch(), 0.0)  # somebody else takes it meanwhile
    await made.recover(10.0)
    assert [branch.rolled_back for branch in (old, busy, own, older)] == [1, 0, 0, 1]
    assert len(site.host.kept.used()) == 3
    assert +site.metrics == {"sessions_expired": 2}
    stop(made)


async def test_the_recover_goes_on_after_any_failure() -> None:
    site = Site(manager := Manager())
    site.patience = 0.002
    problems = [ZeroDivisionError(), WormError("odd")]

    class Failing(VoteStore):
        async def find(self, deadline: float) -> TransactionSpace | None:
            if problems:
                raise problems.pop()
            return HOME

    site.host.vote_store = Failing()
    made = recovery(site)
    for _ in range(2000):
        if ("prepared",) in manager.told and site.finished.trims:
            break
        await asyncio.sleep(0.001)
    assert problems == []
    assert ("prepared",) in manager.told
    assert site.finished.trims
    stop(made)


async def test_a_store_elsewhere_is_asked_as_one_of_this_space() -> None:
    store = RemoteStore("a", "h:1")
    asked = []

    async def call(message, identity: str) -> bytes:
        asked.append((message, identity))
        return messages.encode([])

    store._call = call
    site = Site(store)
    site.host.vote_store.made = False
    made = recovery(site)
    assert await made.recover(0) == []
    assert asked == []
    site.host.vote_store.made = True
    assert await made.recover(0) == []
    assert asked == [(messages.ListPrepared("a"), HOME.identity)]
    stop(made)


def test_how_long_is_waited_for_managers() -> None:
    assert ASK_S > remote.TIMEOUT_S
