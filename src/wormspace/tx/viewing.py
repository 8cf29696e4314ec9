"""Transactions as they stand in their vote registers, for people."""

from __future__ import annotations

from wormspace.errors import NotAllocated, Trimmed
from wormspace.runtime.deadlines import left
from wormspace.space import Client
from wormspace.tx.checking import check_client
from wormspace.tx.deciding import MISSING, NO, YES, Vote, decode, outcome
from wormspace.tx.names import TxId, check_id, check_name, split_vote_space
from wormspace.tx.space import find_space
from wormspace.tx.vote_store import VoteStore


class Seen:
    """One transaction.

    Attributes:
        votes: what stands, by resource manager.
    """

    def __init__(self, txid: TxId) -> None:
        self.id = txid
        self.votes: dict[str, Vote] = {}

    @property
    def participants(self) -> tuple[str, ...]:
        """All of its resource managers, as far as any vote says."""
        named = next((v.participants for v in self.votes.values() if v.participants), ())
        return named or tuple(sorted(self.votes))

    @property
    def missing(self) -> tuple[str, ...]:
        """Who has not voted."""
        return tuple(p for p in self.participants if p not in self.votes)

    @property
    def outcome(self) -> str:
        """As the votes say now."""
        held = self.votes
        return outcome(
            (YES if held[p].yes else NO) if p in held else MISSING for p in self.participants
        )

    @property
    def at(self) -> float:
        """When the last of these votes was written, in seconds since 1970."""
        return max((vote.at for vote in self.votes.values()), default=0.0)


async def _vote_spaces(client: Client, space: str, deadline: float) -> list[tuple[str, str]]:
    """(resource manager, initiator) of every vote space."""
    names = await client.spaces(timeout=left(deadline))
    pairs = (split_vote_space(space, name) for name in names)
    return [pair for pair in pairs if pair is not None]


async def look(client: Client, space: str, *, timeout: float | None = None) -> list[Seen]:
    """Every transaction of which votes are kept, the latest last.

    Args:
        timeout: in seconds, for all of it; by default the client's.

    Raises:
        UsageError: an argument is not what is said here.
        WrongKind: the space is something else.
        Unavailable: not in time.
    """
    deadline = check_client(client).deadline(timeout)
    home = await find_space(client, check_name(space), deadline)
    if home is None:
        return []
    found: dict[TxId, Seen] = {}
    for manager, initiator in await _vote_spaces(client, space, deadline):
        votes = client.space(home.vote_space(manager, initiator))
        first = await votes.head(timeout=left(deadline))
        for number in range(first, await votes.tail(timeout=left(deadline))):
            try:
                segment = home.check(await votes.segment(number, timeout=left(deadline)))
                values = await segment.read_range(timeout=left(deadline))
            except (Trimmed, NotAllocated):
                continue
            for offset, raw in enumerate(values):
                if raw is not None:
                    txid = TxId(initiator, number * home.segment_size + offset)
                    seen = found.setdefault(txid, Seen(txid))
                    seen.votes[manager] = decode(raw)
    return sorted(found.values(), key=lambda seen: (seen.at, seen.id))


async def look_at(
    client: Client, space: str, txid: TxId, *, timeout: float | None = None
) -> Seen | None:
    """One transaction; None if no vote of it is kept: it was never voted on, or it is over.

    Args:
        timeout: in seconds, for all of it; by default the client's.

    Raises:
        UsageError: an argument is not what is said here.
        WrongKind: the space is something else.
        Trimmed: it is over, and its votes are forgotten.
        Unavailable: not in time.
    """
    deadline = check_client(client).deadline(timeout)
    seen = Seen(check_id(txid))
    vote_store = VoteStore(client, check_name(space), lambda *_: None)
    for manager, initiator in await _vote_spaces(client, space, deadline):
        if initiator == txid.initiator:
            vote = await vote_store.read(manager, txid, deadline=deadline)
            if vote is not None:
                seen.votes[manager] = vote
    return seen if seen.votes else None
