"""When votes may be forgotten: once every resource manager has acted on them, and not before.

A vote segment of initiator `j` is trimmed, in the spaces of all its resource managers, when

1. every transaction in it is decided, and
2. after that, no resource manager holds a branch of any of them prepared.

A committed transaction has the yes of each participant, so each had prepared it before (1); what
(2) does not find has been acted on, durably.  So a branch that is found later belongs to a
transaction that was not committed: that is what a trimmed segment says to whoever asks.

An initiator does this for its own segments.  For those of initiators that are gone, `retire` first
decides whatever is not: it writes "no" into every register that is empty.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from wormspace.errors import (
    NotAllocated,
    Trimmed,
    UsageError,
    WormError,
)
from wormspace.runtime.deadlines import LEAST_S, left, within
from wormspace.space import Client, Segment
from wormspace.tx.checking import check_client, check_manager, check_moment, check_seconds
from wormspace.tx.deciding import Vote, decode, encode
from wormspace.tx.errors import ManagerDown
from wormspace.tx.hosting import Host
from wormspace.tx.identity import Identities
from wormspace.tx.managers import ResourceManager
from wormspace.tx.messages import ListPrepared, Plan, decode_gids
from wormspace.tx.names import Gid, TxId, branches_of, check_name, split_vote_space
from wormspace.tx.remote import RemoteStore
from wormspace.tx.resolver import Resolver
from wormspace.tx.space import TransactionSpace, find_space
from wormspace.writer.settling import settle_range

log = logging.getLogger("wormspace.tx")

RETIRE_S = 60.0
UNUSED = "its initiator is gone and the segment is retired"


class _Segment:
    """One segment of this initiator's numbers: how many are decided, and whose votes are there."""

    __slots__ = ("decided", "voters")

    def __init__(self) -> None:
        self.decided = 0
        self.voters: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()

    @property
    def managers(self) -> dict[str, str]:
        """Who voted, or was to, with their addresses."""
        return {
            name: address
            for names, addresses in self.voters
            for name, address in zip(names, addresses, strict=True)
        }


class Finished:
    """The vote segments of this process's own transactions."""

    def __init__(self, host: Host, client: Client, patience: float) -> None:
        self._host = host
        self._client = client
        self._patience = patience
        self._segments: dict[int, _Segment] = {}
        self._unopened: list[TxId] = []
        self._open: dict[TxId, Plan] = {}

    def add(self, txid: TxId, plan: Plan | None = None) -> None:
        """This transaction is decided; without a plan: nobody was asked to vote on it."""
        if not self._host.vote_store.is_open:
            self._unopened.append(txid)
            return
        number = txid.number // self._host.vote_store.home.segment_size
        segment = self._segments.get(number)
        if segment is None:
            segment = self._segments[number] = _Segment()
        segment.decided += 1
        if plan is not None:
            segment.voters.add((plan.participants, plan.addresses))

    def leave_open(self, plan: Plan) -> None:
        """Nobody here knows how this one was decided."""
        self._open[plan.id] = plan

    async def _close(self) -> None:
        """Learn how those were decided that nobody here knows of."""
        for txid, plan in list(self._open.items()):
            try:
                await self._host.resolver.settle(txid, plan.participants)
            except Trimmed:
                pass  # somebody else has looked after it
            del self._open[txid]
            self.add(txid, plan)

    async def trim(self) -> None:
        """Trim what may be trimmed by now."""
        if not self._host.vote_store.is_open:
            return
        unopened, self._unopened = self._unopened, []
        for txid in unopened:
            self.add(txid)
        try:
            await self._close()
        except WormError as e:
            log.info("tx: the outcome of a transaction of this process is still unknown: %s", e)
        for number, segment in list(self._segments.items()):
            if segment.decided < self._host.vote_store.home.segment_size:
                continue
            try:
                if not await self._is_prepared_anywhere(number, segment):
                    await self._trim(number, segment)
                    del self._segments[number]
            except WormError as e:
                log.info("tx: votes are trimmed later: %s", e)

    async def _is_prepared_anywhere(self, number: int, segment: _Segment) -> bool:
        host = self._host
        for name, address in segment.managers.items():
            if address in ("", host.peers.address):
                gids = await (await host.recognise(name)).prepared()
            else:
                raw = await host.peers.call(address, ListPrepared(name), self._patience)
                gids = branches_of(name, decode_gids(raw))
            if _any_of(gids, host.vote_store.home, host.peers.initiator, number):
                return True
        return False

    async def _trim(self, number: int, segment: _Segment) -> None:
        host = self._host
        for name in segment.managers:
            space = self._client.space(host.vote_store.home.vote_space(name, host.peers.initiator))
            try:
                await space.trim(number)
            except NotAllocated:
                continue  # it has never voted there
            host.vote_store.forget(name, host.peers.initiator, number)
            host.metrics["segments_trimmed"] += 1


def _any_of(gids: list[Gid], home: TransactionSpace, initiator: str, number: int) -> bool:
    return any(
        home.owns(gid)
        and gid.id.initiator == initiator
        and gid.id.address(home.segment_size).segment == number
        for gid in gids
    )


async def retire(
    client: Client,
    space: str,
    resolver: Resolver,
    managers: Mapping[str, ResourceManager],
    *,
    before: float,
    timeout: float = RETIRE_S,
) -> list[str]:
    """Trim the votes of initiators whose last vote is older than `before` (seconds since 1970).

    An initiator that is only slow loses its capture, so that transactions it has under way are
    aborted: that costs it time, never atomicity.

    Args:
        managers: by name, those that can be asked here.
        timeout: in seconds, for all of it; initiators whose turn has not come are left for another
            call.

    Returns:
        What was trimmed, as SPACE/SEGMENT.

    Raises:
        UsageError: an argument is not what is said here.
        WrongManager: a manager is another database than its name means; nothing was trimmed.
        WrongKind: there is something else under the name of a vote space.
        Unavailable, ManagerDown: also if one initiator's turn was not over in time.
    """
    deadline = within(check_seconds("a timeout", timeout))
    check_moment("before", before)
    if not isinstance(resolver, Resolver):
        raise UsageError(f"votes are retired by a site's resolver, not {resolver!r}")
    _check_managers(managers)
    home = await find_space(check_client(client), check_name(space), deadline)
    if home is None:
        return []
    for manager in managers.values():
        if isinstance(manager, RemoteStore):
            manager.belong_to(home)
    initiators = await _initiators(client, space, deadline)
    identities = Identities(client, space)
    for name in sorted({name for names in initiators.values() for name in names}):
        if name in managers:
            await identities.check(managers[name], deadline)
    trimmed: list[str] = []
    for initiator, names in sorted(initiators.items()):
        if not all(name in managers for name in names):
            log.info("tx: votes of %s stay: not all of %s can be asked", initiator, names)
            continue
        if left(deadline) <= LEAST_S:
            log.info("tx: votes of %s and others stay for now: the time was over", initiator)
            break
        segments = await _segments(client, home, initiator, names, deadline)
        if segments and await _newest(segments, deadline) < before:
            asked = {name: managers[name] for name in names}
            trimmed += await _retire_one(
                home, initiator, segments, resolver, asked, identities, deadline
            )
    return trimmed


async def _initiators(client: Client, space: str, deadline: float) -> dict[str, list[str]]:
    """Every initiator of which there are votes, with the managers that have a vote space for it."""
    initiators: dict[str, list[str]] = {}
    for name in await client.spaces(timeout=left(deadline)):
        pair = split_vote_space(space, name)
        if pair is not None:
            initiators.setdefault(pair[1], []).append(pair[0])
    return initiators


def _check_managers(managers: Mapping[str, ResourceManager]) -> None:
    """
    Raises:
        UsageError: they are no managers by their names.
    """
    if not isinstance(managers, Mapping):
        raise UsageError(f"managers are a mapping of names, not {managers!r}")
    for name, manager in managers.items():
        check_manager(manager)
        if check_name(name) != manager.name:
            raise UsageError(f"resource manager {manager.name!r} is passed as {name!r}")


async def _segments(
    client: Client, home: TransactionSpace, initiator: str, names: list[str], deadline: float
) -> list[tuple[str, Segment]]:
    found = []
    for name in names:
        votes = client.space(home.vote_space(name, initiator))
        first = await votes.head(timeout=left(deadline))
        for number in range(first, await votes.tail(timeout=left(deadline))):
            try:
                segment = await votes.segment(number, timeout=left(deadline))
                found.append((name, home.check(segment)))
            except Trimmed:
                continue
    return found


async def _newest(segments: list[tuple[str, Segment]], deadline: float) -> float:
    """When the last of these votes was written; 0 if there is none."""
    newest = 0.0
    for _, segment in segments:
        values = await segment.read_range(timeout=left(deadline))
        newest = max([newest, *(decode(v).at for v in values if v is not None)])
    return newest


async def _retire_one(
    home: TransactionSpace,
    initiator: str,
    segments: list[tuple[str, Segment]],
    resolver: Resolver,
    managers: Mapping[str, ResourceManager],
    identities: Identities,
    deadline: float,
) -> list[str]:
    for name, segment in segments:
        await _seal(home, initiator, name, segment, deadline)
    for name in dict(segments):  # one that began meanwhile says only now which database it means
        await identities.check(managers[name], deadline)
    branches: list[tuple[ResourceManager, Gid]] = []
    for name in dict(segments):
        try:
            async with asyncio.timeout(left(deadline)):
                prepared = await managers[name].prepared()
        except TimeoutError:
            raise ManagerDown(f"{name} did not say in time what it holds prepared") from None
        branches += [
            (managers[name], gid)
            for gid in prepared
            if home.owns(gid) and gid.id.initiator == initiator
        ]
    failed = [r for r in await resolver.finish_all(branches, deadline) if r.problem]
    if failed:
        log.info("tx: votes of %s stay: %s", initiator, failed[0].problem)
        return []
    for _, segment in segments:
        await segment.trim(timeout=left(deadline))
    return [f"{segment.space.name}/{segment.number}" for _, segment in segments]


async def _seal(
    home: TransactionSpace, initiator: str, manager: str, segment: Segment, deadline: float
) -> None:
    """Decide every register of a vote segment.

    Raises:
        Unavailable: not in time.
    """

    def no(offset: int) -> bytes:
        txid = TxId(initiator, segment.number * segment.size + offset)
        return encode(Vote(False, (), str(home.gid(manager, txid)), 0.0, "", UNUSED))

    await settle_range(segment, 0, segment.size, no, left(deadline))
