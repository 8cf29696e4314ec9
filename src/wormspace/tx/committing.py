"""Who sets off the votes and who learns them how, in each of the six variants.

The initiator runs `run`.  In A8, B6, C5 and D4 it starts a TM, which runs `drive`; in E3 it asks
the resource managers itself; in F2 they have been told with their last operation to vote when it
is done.  Whatever goes wrong on the way, the initiator ends up reading the registers, and writes
"no" for whoever has not voted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from wormspace.errors import Unavailable, WormError
from wormspace.runtime.deadlines import within
from wormspace.tx.cancelling import cancel_later
from wormspace.tx.deciding import Decision
from wormspace.tx.errors import OutcomeUnknown
from wormspace.tx.hosting import ACT_S, Host
from wormspace.tx.in_flight import InFlight
from wormspace.tx.managers import Branch
from wormspace.tx.messages import Ask, Begin, Plan, Tell, decode_decision, decode_votes
from wormspace.tx.variants import LISTENS, find


def sites_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The managers at each address."""
    found: dict[str, tuple[str, ...]] = {}
    for manager, address in zip(plan.participants, plan.addresses, strict=True):
        found[address] = (*found.get(address, ()), manager)
    return found


def is_here(host: Host, plan: Plan, address: str) -> bool:
    """Whether that address in the plan is this site; "" is that of its initiator."""
    if not address:
        return plan.id.initiator == host.peers.initiator
    return address == host.peers.address


def listen(host: Host, plan: Plan) -> None:
    """Hear the votes of the managers elsewhere, if the variant wants that of those who act."""
    if find(plan.variant).listening:
        _follow(host, plan)


def _follow(host: Host, plan: Plan) -> None:
    for manager, address in zip(plan.participants, plan.addresses, strict=True):
        if not is_here(host, plan, address):
            host.vote_store.follow(manager, plan.id)


async def run(
    host: Host, plan: Plan, branches: Mapping[str, Branch], asked: frozenset[str]
) -> tuple[Decision, tuple[str, ...]]:
    """The initiator's part: from "commit" to the decision.

    Args:
        branches: the work of the managers in this process, by name.
        asked: managers that have been told to vote with their last operation.

    Returns:
        The decision, and the managers here that have not acted on it in a reasonable time.

    Raises:
        OutcomeUnknown: the registers cannot be reached.
    """
    in_flight = host.in_flights.join(plan.id, plan.participants)
    in_flight.deadline = host.now() + plan.timeout
    limit = in_flight.deadline + plan.timeout + ACT_S
    if any(plan.addresses):
        for name, branch in branches.items():
            host.kept.keep(plan.id, name, branch)
        _set_off(host, plan, in_flight, asked)
    else:
        host.take_part(plan, branches)
    try:
        decision = await in_flight.ended()
    except asyncio.CancelledError:
        decision = await _end_cancelled(host, plan, in_flight, limit)
    except WormError as e:
        raise unknown(plan, e) from e
    finally:
        host.in_flights.leave(in_flight)
    return decision, in_flight.pending


async def _end_cancelled(host: Host, plan: Plan, in_flight: InFlight, limit: float) -> Decision:
    """Whoever waits is cancelled: the commit ends all the same, and says what is true.

    Raises:
        OutcomeUnknown: it cannot be learned in time, or the whole process is ending.
    """
    while host.is_alive:
        try:
            async with asyncio.timeout_at(limit):
                decision = await in_flight.ended()
        except asyncio.CancelledError:
            continue
        except (TimeoutError, WormError) as e:
            cancel_later()
            raise unknown(plan, e) from e
        cancel_later()
        return decision
    raise unknown(plan, Unavailable("this process is ending"))


def _set_off(host: Host, plan: Plan, in_flight: InFlight, asked: frozenset[str]) -> None:
    """Let everybody vote, some of them elsewhere, as the variant has it."""
    variant = find(plan.variant)
    sites = sites_of(plan)
    driven = variant.driven and any(not is_here(host, plan, address) for address in sites)
    if not driven or variant.listening:
        _follow(host, plan)
    if driven:
        host.peers.spawn(_start(host, plan, in_flight))
        return
    for address, managers in sites.items():
        left = tuple(m for m in managers if m not in asked)
        if is_here(host, plan, address):
            host.take_part(plan, dict.fromkeys(left))
        elif left:
            host.peers.spawn(_ask(host, plan, in_flight, address, left))


def unknown(plan: Plan, e: Exception) -> OutcomeUnknown:
    """What is said of a transaction whose votes cannot be read."""
    return OutcomeUnknown(
        f"transaction {plan.id} ({', '.join(plan.participants)}) is committed or aborted, and "
        f"which of them is unknown here: {str(e) or 'no answer in time'}; "
        f"`wormspace tx show {plan.id}` tells",
        plan.id,
        plan.participants,
    )


async def _ask(
    host: Host,
    plan: Plan,
    in_flight: InFlight | None,
    address: str,
    managers: tuple[str, ...],
) -> None:
    """Ask for votes; who does not answer is not waited for."""
    try:
        raw = await host.peers.call(address, Ask(plan, managers), plan.timeout)
        votes = decode_votes(raw)
    except WormError:
        deadline = within(plan.timeout)
        votes = [
            await host.resolver.refuse(manager, plan.id, plan.participants, deadline)
            for manager in managers
        ]
    for manager, vote in zip(managers, votes, strict=True):
        if in_flight is not None and vote is not None:
            in_flight.learn(manager, vote)


async def _start(host: Host, plan: Plan, in_flight: InFlight) -> None:
    """Start the TM; if it does not answer, the transaction's own time limit settles it."""
    if is_here(host, plan, plan.tm):
        decision = await drive(host, plan)
    else:
        raw = await host.peers.call(plan.tm, Begin(plan), plan.timeout)
        decision = decode_decision(raw) if raw else None
    if decision is not None:
        in_flight.decide(decision)


async def drive(host: Host, plan: Plan) -> Decision | None:
    """The TM's part: ask everybody; learn the decision and tell it, if the variant wants that.

    Returns:
        The decision; None in a variant in which resource managers hear the votes themselves.
    """
    variant = find(plan.variant)
    in_flight = host.in_flights.join(plan.id, plan.participants) if variant.tm else None
    sites = sites_of(plan)
    if variant.tm == LISTENS:
        _follow(host, plan)
    for address, managers in sites.items():
        if is_here(host, plan, address):
            listen(host, plan)
            host.take_part(plan, dict.fromkeys(managers))
        else:
            host.peers.spawn(_ask(host, plan, in_flight, address, managers))
    if in_flight is None:
        return None
    in_flight.deadline = host.now() + plan.timeout
    try:
        decision = await in_flight.decided()
    except WormError as e:
        raise unknown(plan, e) from e
    finally:
        host.in_flights.leave(in_flight)
    for address in sites:
        if not is_here(host, plan, address):
            host.peers.spawn(host.peers.call(address, Tell(plan.id, decision), plan.timeout))
    return decision
