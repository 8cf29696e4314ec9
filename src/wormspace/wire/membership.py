"""Who may be counted: the servers of a replica set, as they introduce themselves.

A quorum is a majority of the *whole* replica set, each server counted once.  A client that was
told of too few servers, or of one server under two addresses, would count wrong and lose what was
decided; so every greeting is checked before a link is used.
"""

from __future__ import annotations

from typing import Protocol

from wormspace.wire.messages import PROTOCOL_VERSIONS, Welcome


class OneCluster:
    """What the partitions of one client have in common: the first greeting says which cluster."""

    def __init__(self) -> None:
        self.name = ""


class Movable(Protocol):
    """A link, as another of the same replica set sees it."""

    @property
    def name(self) -> str:
        """Where it leads, for people."""

    @property
    def up(self) -> bool:
        """Whether its server greeted."""

    def exchange_addresses(self, other: Movable) -> None:
        """Each of the two connects to where the other one did."""


class Membership:
    """One replica set as a client was told of it: `size` addresses, at place `partition`.

    A place is a bit of a quorum's mask, and stands for one server, by name, as long as the client
    lives: an answer that is counted today, and one that came before, are of the same server.
    Addresses are only where servers are found; where two were exchanged, their links exchange them.

    Attributes:
        links: by place; each puts itself here.
    """

    def __init__(
        self, partition: int, partitions: int, size: int, cluster: OneCluster | None = None
    ) -> None:
        self._partition = partition
        self._partitions = partitions
        self._size = size
        self._cluster = cluster or OneCluster()
        self._names: dict[int, str] = {}
        self.links: dict[int, Movable] = {}

    def check(self, welcome: Welcome) -> str:
        """Why the server that greeted so must not be counted; empty if it may be."""
        if welcome.version not in PROTOCOL_VERSIONS:
            ours = ", ".join(map(str, PROTOCOL_VERSIONS))
            return f"it chose protocol version {welcome.version}; this client speaks {ours}"
        if welcome.partition != self._partition or welcome.partitions != self._partitions:
            return (
                f"it belongs to partition {welcome.partition + 1} of {welcome.partitions}, but was "
                f"given as partition {self._partition + 1} of {self._partitions}"
            )
        if welcome.replicas != self._size:
            return (
                f"its partition has {welcome.replicas} servers, but {self._size} were given: "
                "name all of them, or quorums would be counted wrong"
            )
        if self._cluster.name not in ("", welcome.cluster):
            return f"it belongs to cluster {welcome.cluster!r}, others to {self._cluster.name!r}"
        self._cluster.name = welcome.cluster
        return ""

    def admit(self, place: int, server: str) -> str | None:
        """What to make of `server`, met at the address of the link at `place`.

        Returns:
            None: it is the one that the place stands for, now if not before.  Else a reason not
            to use the link: empty if another attempt will do, since addresses were exchanged.
        """
        home = self._place_of(server)
        if home is None:
            free = [p for p in (place, *range(self._size)) if p not in self._names]
            if not free:
                return f"it is server {server!r}, but {', '.join(self._names.values())} were met"
            home = free[0]
            self._names[home] = server
        if home == place:
            return None
        link, other = self.links[place], self.links[home]
        if other.up:
            return f"it is server {server!r}, and so is {other.name}: name each server once"
        link.exchange_addresses(other)
        return ""

    def _place_of(self, server: str) -> int | None:
        return next((place for place, name in self._names.items() if name == server), None)
