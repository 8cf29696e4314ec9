"""The four steps of a part, with everybody else made up."""

from __future__ import annotations

import asyncio

import pytest
from tests.tx.pieces import (
    AT,
    Branch,
    Manager,
    Site,
    gid,
    part_of,
    plan,
    turn,
    vote,
)

from wormspace.errors import Trimmed, Unavailable
from wormspace.tx.deciding import ALL_YES, Vote
from wormspace.tx.errors import Conflict, ManagerDown
from wormspace.tx.names import TxId
from wormspace.tx.resolver import OVER


@pytest.mark.parametrize(
    ("problem", "reason", "conflict"),
    [
        (None, "", False),
        (Conflict("a lock"), "a lock", True),
        (ManagerDown("gone"), "gone", False),
        (KeyError(), "KeyError", False),
    ],
)
@pytest.mark.parametrize(("variant", "ahead"), [("E3", True), ("A8", False)])
async def test_a_part_votes_as_it_could_prepare(problem, reason, conflict, variant, ahead) -> None:
    site = Site(Manager())
    part, _ = part_of(site, Branch(problem), plan(variant))
    part.prepare()
    assert site.host.tasks
    await turn()
    yes = problem is None
    expected = Vote(yes, ("a", "b"), str(gid()), AT, "a", reason, conflict)
    assert site.host.vote_store.casts == [("a", TxId("j", 1), expected, ahead, 103.0)]
    assert site.metrics == {"votes_yes" if yes else "votes_no": 1}
    part.prepare()  # its work is not here any more
    await turn()
    assert site.host.vote_store.casts[1][2].reason.startswith("its work is not here")


async def test_a_part_acts_once_its_vote_and_the_decision_are_known() -> None:
    heard = []
    manager = Manager()
    site = Site(manager)
    site.host.on_decision = lambda *what: heard.append((*what, list(manager.told)))
    part, in_flight = part_of(site, Branch(), plan())
    part.prepare()
    await turn()
    in_flight.learn("b", vote("b"))
    part.act()
    assert manager.told == []
    site.host.vote_store.on_stands(vote("a"), None)
    part.act()
    await turn()
    assert manager.told == [("commit", gid())]
    assert heard == [(TxId("j", 1), "a", ALL_YES, [])]
    assert part.acted
    assert in_flight.id not in site.host.in_flights.open
    assert await in_flight.ended() == ALL_YES
    assert site.metrics["left_to_recover"] == 0


async def test_a_part_obeys_the_vote_that_stands_and_not_its_own() -> None:
    manager = Manager()
    site = Site(manager)
    part, in_flight = part_of(site, Branch(), plan())
    part.prepare()
    await turn()
    stands = vote("a", yes=False)
    site.host.vote_store.on_stands(stands, None)
    await turn()
    assert manager.told == [("abort", gid())]
    assert in_flight.votes == {"a": stands}


async def test_a_part_whose_register_is_trimmed_was_not_committed() -> None:
    manager = Manager()
    site = Site(manager)
    part, in_flight = part_of(site, Branch(), plan())
    part.prepare()
    await turn()
    site.host.vote_store.on_stands(None, Trimmed("trimmed"))
    await turn()
    assert manager.told == [("abort", gid())]
    assert in_flight.votes["a"] == Vote(False, ("a", "b"), "", 0.0, "", OVER.reason)


@pytest.mark.parametrize("at", ["vote", "act"])
async def test_a_part_that_cannot_go_on_is_left_to_the_recover(at: str, caplog) -> None:
    site = Site(Manager(problem=ManagerDown("gone")))
    part, in_flight = part_of(site, Branch(), plan(participants=("a",)))
    part.prepare()
    await turn()
    site.host.vote_store.on_stands(
        *((None, Unavailable("gone")) if at == "vote" else (vote("a"), None))
    )
    await turn()
    assert (part.acted, in_flight._acting) == (False, 0)
    assert site.metrics["left_to_recover"] == 1
    assert site.host.in_flights.open == {}
    assert "a is left to the recovery: gone" in caplog.text


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_a_part_that_ends_with_its_site_does_not_vote(how: str) -> None:
    site = Site(Manager())
    part, in_flight = part_of(site, Branch(), plan())
    part.prepare()
    if how == "closed":
        site.closed = True
    else:
        site.host.tasks.cancel()
    await turn()
    assert site.host.vote_store.casts == []
    assert in_flight._acting == 0


async def test_a_part_whose_act_is_cancelled_has_not_acted() -> None:
    site = Site(Manager())
    part, in_flight = part_of(site, Branch(), plan(participants=("a",)))
    part.prepare()
    await turn()
    site.host.vote_store.on_stands(vote("a"), None)
    site.host.tasks.cancel()
    await turn()
    assert (part.acted, in_flight._acting, site.metrics["left_to_recover"]) == (False, 0, 0)


async def test_what_is_done_at_once_needs_no_task() -> None:
    class Quick(Branch):
        def prepare(self):
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done

    site = Site(Manager())
    part, _ = part_of(site, Quick(), plan())
    part.prepare()
    assert len(site.host.vote_store.casts) == 1
    assert not site.host.tasks
