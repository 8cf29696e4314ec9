"""Who may be counted: the servers of a replica set, as they introduce themselves.

A quorum is a majority of the *whole* replica set, each server counted once.  A client that was
told of too few servers, or of one server under two addresses, would count wrong and lose what was
decided; so every greeting is checked before a link is used.
"""

from __future__ import annotations

from wormspace.wire.messages import Welcome


class OneCluster:
    """What the partitions of one client have in common: the first greeting says which cluster."""

    def __init__(self) -> None:
        self.name = ""


class Membership:
    """One replica set as a client was told of it: `size` addresses, at place `partition`."""

    def __init__(
        self, partition: int, partitions: int, size: int, cluster: OneCluster | None = None
    ) -> None:
        self._partition = partition
        self._partitions = partitions
        self._size = size
        self._cluster = cluster or OneCluster()
        self._names: dict[int, tuple[str, str]] = {}

    def check(self, place: int, address: str, welcome: Welcome) -> str:
        """Why the server at `address` must not be counted; empty if it may be.

        `place` is where it stands in the list: the same server at two places is counted twice, be
        it under two addresses or one.
        """
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
        for other, (name, where) in self._names.items():
            if name == welcome.server and other != place:
                return f"it is server {name!r}, and so is {where}: name each server once"
        if self._cluster.name not in ("", welcome.cluster):
            return f"it belongs to cluster {welcome.cluster!r}, others to {self._cluster.name!r}"
        self._cluster.name = welcome.cluster
        self._names[place] = (welcome.server, address)
        return ""
