"""Who sets off the votes and hears them, in each variant and wherever the managers are."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from tests.tx.pieces import Branch, Manager, Site, VoteStore, turn, vote

from wormspace.errors import Unavailable
from wormspace.rpc import NoAnswer
from wormspace.tx import committing, messages
from wormspace.tx.committing import ACT_S, drive, is_here, listen, run, sites_of
from wormspace.tx.deciding import ABORTED, ALL_YES, Decision
from wormspace.tx.errors import OutcomeUnknown
from wormspace.tx.messages import Ask, Begin, Plan, Tell
from wormspace.tx.names import TxId
from wormspace.tx.variants import VARIANTS

HERE, THERE, YONDER = "me:1", "h:1", "h:2"
NAMES = ("a", "b", "c")
PLACES = [
    ("", "", ""),
    (HERE, "", THERE),
    ("", THERE, THERE),
    (THERE, YONDER, THERE),
    (HERE, THERE, YONDER),
]


def planned(
    variant: str = "E3", addresses=PLACES[0], tm: str = THERE, initiator: str = "me"
) -> Plan:
    return Plan(TxId(initiator, 1), NAMES[: len(addresses)], addresses, variant, tm, 3.0)


def elsewhere(plan: Plan, initiator: str = "me") -> list[str]:
    """The managers that are not at the site `me`, by the words of the plan's documentation."""
    own = {HERE} if initiator != plan.id.initiator else {HERE, ""}
    return [n for n, at in zip(plan.participants, plan.addresses, strict=True) if at not in own]


@pytest.mark.parametrize("initiator", ["me", "other"])
@pytest.mark.parametrize("addresses", PLACES)
async def test_managers_are_where_the_plan_says(addresses, initiator: str) -> None:
    site, plan = Site(), planned("E3", addresses, initiator=initiator)
    found = sites_of(plan)
    assert sorted(n for names in found.values() for n in names) == list(NAMES)
    for address, names in found.items():
        assert [addresses[NAMES.index(n)] for n in names] == [address] * len(names)
        assert is_here(site, plan, address) != bool(set(names) & set(elsewhere(plan)))


@pytest.mark.parametrize(("variant", "addresses"), [*itertools.product(VARIANTS, PLACES)])
async def test_who_acts_hears_the_votes_elsewhere_where_managers_listen(variant, addresses) -> None:
    site, plan = Site(), planned(variant, addresses)
    listen(site, plan)
    assert site.host.vote_store.followed == (
        elsewhere(plan) if variant in ("D4", "E3", "F2") else []
    )


def asks(site: Site) -> dict[str, tuple[str, ...]]:
    """Who was asked at which address, within the time limit."""
    found = {}
    for address, message, timeout in site.said:
        assert isinstance(message, Ask)
        assert timeout == 3.0
        found[address] = message.managers
    return found


async def begun(site: Site, plan: Plan, asked=frozenset(), branches=None) -> asyncio.Task:
    """An initiator that has begun to commit."""
    task = asyncio.ensure_future(run(site, plan, branches or {}, asked))
    await turn()
    return task


async def ended(site: Site, plan: Plan, task: asyncio.Task, decision: Decision) -> tuple:
    site.host.in_flights.open[plan.id].decide(decision)
    return await task


@pytest.mark.parametrize("asked", [frozenset(), frozenset("ac"), frozenset("abc")])
@pytest.mark.parametrize("variant", ["E3", "F2"])
@pytest.mark.parametrize("addresses", PLACES[1:])
async def test_an_initiator_asks_all_who_were_not_told_to_vote(variant, addresses, asked) -> None:
    site, plan = Site(), planned(variant, addresses)
    site.answer = messages.encode([None] * 3)
    task = await begun(site, plan, asked)
    assert site.host.vote_store.followed == elsewhere(plan)
    left = {
        at: kept
        for at, names in sites_of(plan).items()
        if (kept := tuple(n for n in names if n not in asked))
    }
    assert {at: names for at, names in left.items() if at in (THERE, YONDER)} == {
        at: names for at, names in asks(site).items() if names
    }
    taken = [n for its, names in site.parts for n in names if its is plan]
    assert taken == [n for at, names in left.items() if at in ("", HERE) for n in names]
    assert await ended(site, plan, task, ALL_YES) == (ALL_YES, ())


@pytest.mark.parametrize("variant", ["A8", "B6", "C5", "D4"])
@pytest.mark.parametrize("addresses", PLACES[1:])
async def test_an_initiator_starts_a_tm_and_hears_what_it_says(variant, addresses) -> None:
    said = Decision(ABORTED, "b", "b", "full")
    for answer in (b"", messages.encode(said)):
        site, plan = Site(), planned(variant, addresses)
        site.answer = answer
        task = await begun(site, plan)
        assert site.said == [(THERE, Begin(plan), 3.0)]
        assert site.parts == []
        assert site.host.vote_store.followed == (elsewhere(plan) if variant == "D4" else [])
        assert task.done() == bool(answer)
        assert (await task if answer else await ended(site, plan, task, said))[0] == said


@pytest.mark.parametrize("tm", ["", HERE])
async def test_an_initiator_may_be_the_tm(tm: str) -> None:
    site, plan = Site(Manager()), planned("A8", (HERE, THERE), tm)
    site.answer = messages.encode([vote("b")])
    task = await begun(site, plan)
    assert asks(site) == {THERE: ("b",)}
    assert site.parts == [(plan, {"a": None})]
    site.host.in_flights.open[plan.id].learn("a", vote("a"))
    assert await task == (ALL_YES, ())
    await turn()
    assert site.host.in_flights.open == {}


async def test_managers_that_are_all_here_take_part_and_nobody_is_told() -> None:
    for variant in VARIANTS:
        for addresses in (("", "", ""), (HERE, HERE, HERE)):
            site, plan, branches = Site(), planned(variant, addresses), {"a": Branch()}
            task = await begun(site, plan, branches=branches)
            assert (site.said, site.host.vote_store.followed) == ([], [])
            kept = [] if addresses[0] == "" else [((plan.id, "a"), site.time)]
            assert site.host.kept.used() == kept
            assert site.host.kept.take(plan.id, "a") is (branches["a"] if kept else None)
            assert site.parts == [(plan, dict.fromkeys(NAMES) if kept else branches)]
            in_flight = site.host.in_flights.open[plan.id]
            assert in_flight.deadline == site.time + plan.timeout
            assert await ended(site, plan, task, ALL_YES) == (ALL_YES, ())
            assert site.host.in_flights.open == {}


async def test_an_initiator_says_who_has_not_acted_and_what_it_cannot_learn() -> None:
    class Idle:
        manager, acted = "a", False

        def act(self) -> None:
            pass

    site, plan = Site(), planned()
    task = await begun(site, plan)
    in_flight = site.host.in_flights.open[plan.id]
    in_flight.add(Idle())
    in_flight.decide(ALL_YES)
    await turn()
    assert not task.done()
    in_flight.stop_waiting()
    assert await task == (ALL_YES, ("a",))
    task = await begun(site, plan)
    site.host.in_flights.open[plan.id].give_up(Unavailable("no servers"))
    with pytest.raises(OutcomeUnknown, match="no servers") as caught:
        await task
    assert isinstance(caught.value.__cause__, Unavailable)
    assert site.host.in_flights.open == {}


# ---------------------------------------------------------------- a commit that is cancelled


async def cancelled(site: Site, plan: Plan) -> asyncio.Task:
    """A commit that goes on though whoever waits for it was cancelled twice."""
    task = await begun(site, plan)
    for _ in range(2):
        task.cancel()
        await turn()
        assert not task.done()
    return task


async def test_a_commit_that_is_cancelled_ends_all_the_same() -> None:
    site, plan = Site(), planned()
    site.time = site.loop.time()
    task = await cancelled(site, plan)
    site.host.in_flights.open[plan.id].decide(ALL_YES)
    assert await task == (ALL_YES, ())
    assert site.host.in_flights.open == {}
    task = await cancelled(site, plan)
    site.host.in_flights.open[plan.id].give_up(Unavailable("no servers"))
    with pytest.raises(OutcomeUnknown, match="no servers"):
        await task


async def test_a_cancelled_commit_waits_no_longer_than_it_may() -> None:
    site, plan = Site(), planned()
    site.time = site.loop.time() - plan.timeout * 2 - ACT_S + 0.05
    task = await cancelled(site, plan)
    async with asyncio.timeout(5):
        with pytest.raises(OutcomeUnknown, match="no answer in time"):
            await task
    site.host.is_alive, site.time = False, site.loop.time()
    task = await begun(site, plan)
    task.cancel()
    with pytest.raises(OutcomeUnknown, match="this process is ending"):
        await task


@pytest.mark.parametrize("known", [True, False])
async def test_a_cancellation_strikes_after_the_commit(known: bool) -> None:
    site, plan, ends = Site(), planned(), []
    site.time = site.loop.time()

    async def block() -> None:
        try:
            ends.append(await run(site, plan, {}, frozenset()))
        except OutcomeUnknown:
            ends.append("unknown")
        await asyncio.sleep(5)
        ends.append("not cancelled")

    task = asyncio.ensure_future(block())
    await turn()
    task.cancel()
    await turn()
    in_flight = site.host.in_flights.open[plan.id]
    in_flight.decide(ALL_YES) if known else in_flight.give_up(Unavailable("no servers"))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends == [(ALL_YES, ()) if known else "unknown"]


# ---------------------------------------------------------------- asking for votes


async def test_who_does_not_answer_is_voted_for() -> None:
    site, plan = Site(vote_store=VoteStore(c=vote("c"))), planned("E3", (HERE, THERE, THERE))
    site.answer = NoAnswer("silent")
    soon = site.loop.time() + plan.timeout
    task = await begun(site, plan)
    assert site.host.vote_store.refused == ["b", "c"]
    assert all(soon <= at < soon + 1 for at in site.host.vote_store.deadlines)
    decision, _ = await task
    assert (decision.outcome, decision.culprit, decision.by) == (ABORTED, "b", "me")
    assert site.host.vote_store.votes["b"].participants == NAMES
    site.host.vote_store.votes["b"] = vote("b")
    task = await begun(site, plan)
    assert site.host.in_flights.open[plan.id].votes == {"b": vote("b"), "c": vote("c")}
    assert await ended(site, plan, task, ALL_YES) == (ALL_YES, ())


async def test_a_vote_that_a_site_cannot_say_is_learned_otherwise() -> None:
    site, plan = Site(), planned("E3", (HERE, THERE, THERE))
    site.answer = messages.encode([None, vote("c")])
    task = await begun(site, plan)
    in_flight = site.host.in_flights.open[plan.id]
    assert (in_flight.votes, site.host.vote_store.refused) == ({"c": vote("c")}, [])
    for name in "ab":
        in_flight.learn(name, vote(name))
    assert (await task)[0] == ALL_YES


# ---------------------------------------------------------------- the TM


def told(site: Site, plan: Plan, decision: Decision) -> list[str]:
    """Where the decision was told, within the time limit."""
    tell = Tell(plan.id, decision)
    return [at for at, said, timeout in site.said if said == tell and timeout == 3.0]


@pytest.mark.parametrize("initiator", ["me", "other"])
@pytest.mark.parametrize(("variant", "addresses"), [*itertools.product(VARIANTS, PLACES[1:])])
async def test_a_tm_asks_all_and_tells_the_decision(variant, addresses, initiator: str) -> None:
    site, plan = Site(), planned(variant, addresses, initiator=initiator)
    site.answer = messages.encode([None] * 3)
    task = asyncio.ensure_future(drive(site, plan))
    await turn()
    away = elsewhere(plan)
    at = {n: a for n, a in zip(NAMES, addresses, strict=True) if n in away}
    assert {n: a for a, names in asks(site).items() for n in names} == at
    assert [n for its, names in site.parts for n in names if its is plan] == [
        n for n in NAMES if n not in away
    ]
    hears = variant == "C5" or (VARIANTS[variant].listening and away != list(NAMES))
    assert set(site.host.vote_store.followed) == (set(away) if hears else set())
    if not VARIANTS[variant].tm:
        assert (await task, site.host.in_flights.open) == (None, {})
        return
    in_flight = site.host.in_flights.open[plan.id]
    assert in_flight.deadline == site.time + plan.timeout
    site.said.clear()
    for name in NAMES:
        assert not task.done()
        in_flight.learn(name, vote(name, participants=NAMES))
    assert await task == ALL_YES
    await turn()
    assert sorted(told(site, plan, ALL_YES)) == sorted(set(at.values()))
    assert len(site.said) == len(set(at.values()))
    assert site.host.in_flights.open == {}


async def test_a_tm_learns_the_votes_that_it_is_told() -> None:
    site, plan = Site(), planned("A8", (THERE, YONDER))
    site.answer = messages.encode([vote("a", yes=False)])
    decision = await drive(site, plan)
    assert (decision.outcome, decision.culprit) == (ABORTED, "a")


async def test_a_tm_that_cannot_learn_the_votes_says_so() -> None:
    site, plan = Site(), planned("A8", (THERE, YONDER))
    site.answer = messages.encode([None])
    task = asyncio.ensure_future(drive(site, plan))
    await turn()
    site.host.in_flights.open[plan.id].give_up(Unavailable("no servers"))
    with pytest.raises(OutcomeUnknown, match="no servers"):
        await task
    assert site.host.in_flights.open == {}
    assert committing.ACT_S == 5.0
