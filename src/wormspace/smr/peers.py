"""The other replicas of an object, as one replica knows them: who was heard of lately.

A replica *hears* another one when that asks it for a sign of life, or gives it one.  It is
*introduced* to others by those who have heard them.  Who was neither for `FORGET_S` is forgotten:
replicas that are gone for good stay in no list, and count for nothing, for the state that they had
is not kept by them any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import msgspec

from wormspace.smr.records import Member
from wormspace.space import Address

FORGET_S = 15.0

MOST = 256
"""Replicas that are known at a time: anybody can send a name, and each is greeted and told of."""


class Peer(msgspec.Struct, frozen=True):
    """Another replica: who it is, what it has applied, how far a snapshot goes that it keeps."""

    member: Member
    applied: Address = Address(0, 0)
    kept: Address = Address(0, 0)
    heard_at: float = -math.inf
    known_at: float = -math.inf


class Peers:
    """The other replicas, by name.

    Args:
        own: this replica, which is not among them.
        time: the loop's clock.
    """

    def __init__(self, own: Member, time: Callable[[], float]) -> None:
        self._own = own
        self._time = time
        self._peers: dict[str, Peer] = {}

    def hear(self, member: Member, applied: Address, kept: Address | None = None) -> None:
        """It is alive, and this far."""
        if member.id == self._own.id:
            return
        now = self._time()
        if kept is None:
            before = self._peers.get(member.name)
            kept = before.kept if before and before.member.id == member.id else Address(0, 0)
        if self._has_room(member.name, now):
            self._peers[member.name] = Peer(member, applied, kept, now, now)

    def introduce(self, members: Iterable[Member]) -> None:
        """Somebody knows these."""
        now = self._time()
        for member in members:
            if member.id == self._own.id:
                continue
            known = self._peers.get(member.name)
            if known is None or known.known_at < now - FORGET_S:
                if self._has_room(member.name, now):
                    self._peers[member.name] = Peer(member, known_at=now)
            elif known.member.id == member.id:
                self._peers[member.name] = msgspec.structs.replace(known, known_at=now)

    def _has_room(self, name: str, now: float) -> bool:
        """Whether one more can be known; who was not heard of for longest goes, if need be."""
        if name in self._peers or len(self._peers) < MOST:
            return True
        oldest = min(self._peers.values(), key=lambda one: (one.heard_at, one.known_at))
        if oldest.heard_at >= now - FORGET_S:
            return False  # all of them are alive
        del self._peers[oldest.member.name]
        return True

    def members(self) -> list[Member]:
        """Those who were heard or introduced lately."""
        since = self._time() - FORGET_S
        self._peers = {name: one for name, one in self._peers.items() if one.known_at >= since}
        return [one.member for one in self._peers.values()]

    def heard(self) -> list[Peer]:
        """Those whom this replica itself has heard lately."""
        since = self._time() - FORGET_S
        return [one for one in self._peers.values() if one.heard_at >= since]
