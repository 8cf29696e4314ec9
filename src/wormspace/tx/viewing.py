"""Transactions as they stand in their vote registers, for people."""

from __future__ import annotations

from wormspace.errors import NotAllocated, Trimmed
from wormspace.space import Client
from wormspace.tx.box import Box
from wormspace.tx.deadlines import within
from wormspace.tx.deciding import MISSING, NO, YES, Vote, decode, outcome
from wormspace.tx.names import TxId, check_id, check_name, split_vote_space
from wormspace.tx.space import find_space

TIMEOUT_S = 5.0


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


async def _vote_spaces(client: Client, space: str) -> list[tuple[str, str]]:
    """(resource manager, initiator) of every vote space."""
    pairs = (split_vote_space(space, name) for name in await client.spaces())
    return [pair for pair in pairs if pair is not None]


async def look(client: Client, space: str) -> list[Seen]:
    """Every transaction of which votes are kept, the latest last.

    Raises:
        UsageError: no transaction space can be called that.
        WrongKind: the space is something else.
        Unavailable.
    """
    home = await find_space(client, check_name(space), within(TIMEOUT_S))
    if home is None:
        return []
    found: dict[TxId, Seen] = {}
    for manager, initiator in await _vote_spaces(client, space):
        votes = client.space(home.vote_space(manager, initiator))
        for number in range(await votes.head(), await votes.tail()):
            try:
                values = await home.check(await votes.segment(number)).read_range()
            except (Trimmed, NotAllocated):
                continue
            for offset, raw in enumerate(values):
                if raw is not None:
                    txid = TxId(initiator, number * home.segment_size + offset)
                    seen = found.setdefault(txid, Seen(txid))
                    seen.votes[manager] = decode(raw)
    return sorted(found.values(), key=lambda seen: (seen.at, seen.id))


async def look_at(client: Client, space: str, txid: TxId) -> Seen | None:
    """One transaction; None if no vote of it is kept: it was never voted on, or it is over.

    Raises:
        UsageError: no transaction or transaction space can be called that.
        WrongKind: the space is something else.
        Trimmed: it is over, and its votes are forgotten.
        Unavailable.
    """
    seen = Seen(check_id(txid))
    box = Box(client, check_name(space), lambda *_: None)
    for manager, initiator in await _vote_spaces(client, space):
        if initiator == txid.initiator:
            vote = await box.read(manager, txid, deadline=within(TIMEOUT_S))
            if vote is not None:
                seen.votes[manager] = vote
    return seen if seen.votes else None
