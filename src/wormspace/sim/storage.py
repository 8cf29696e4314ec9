"""What the servers' disks must hold: the protocol's invariants, seen from inside.

Every commit of every disk is watched, so that a decision which is overwritten a moment later is
seen all the same.  The claims:

* under one ballot, one value per register, on all servers together;
* one value per register was ever accepted by a majority under one ballot;
* what a server accepts is not below what it has promised, and promises only rise;
* a tombstone stays, and nothing is accepted under it;
* what a decided mark covers is the decided value.
"""

from __future__ import annotations

from collections.abc import Callable

from wormspace.paxos.acceptor import is_decided
from wormspace.paxos.ballot import BALLOT_BYTES, show
from wormspace.paxos.quorum import is_quorum
from wormspace.paxos.ranges import Range, ballot_at
from wormspace.server import tables
from wormspace.sim.disk import Change, Disk
from wormspace.sim.records import Violation

Place = tuple[str, int, int]
"""(space, segment, offset)."""


class _Server:
    """One disk, as it was told commit by commit."""

    def __init__(self, name: str, bit: int, disk: Disk) -> None:
        self.name = name
        self.bit = bit
        self.disk = disk
        self.names: dict[bytes, str] = {}
        self.tombstones: dict[bytes, set[int]] = {}

    def ranges(self, table: str, prefix: bytes) -> tuple[Range, ...]:
        """All ranges that the disk holds for a segment."""
        return tuple(
            Range(int.from_bytes(k[-8:], "big"), int.from_bytes(v[:8], "big"), v[8:])
            for k, v in self.disk.items(table, prefix)
        )


class StorageWatch:
    """Watches the disks of one replica set of `size` servers; each is `add`ed once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._servers: list[_Server] = []
        self._accepted: dict[Place, dict[bytes, tuple[bytes, int]]] = {}
        self.decided: dict[Place, bytes] = {}
        self.first: Violation | None = None

    def add(self, name: str, disk: Disk) -> None:
        """Watch this server's disk from now on."""
        server = _Server(name, 1 << len(self._servers), disk)
        self._servers.append(server)
        disk.on_commit = self._watcher(server)

    def _watcher(self, server: _Server) -> Callable[[list[Change]], None]:
        def on_commit(changes: list[Change]) -> None:
            # The disk is in the middle of the server's work: keep what is wrong for `check`.
            try:
                self._on_commit(server, changes)
            except Violation as violation:
                if self.first is None:
                    self.first = violation

        return on_commit

    def _on_commit(self, server: _Server, changes: list[Change]) -> None:
        for table, key, value in changes:
            if table == tables.SPACES and value is not None:
                server.names[value] = key.decode()
        for table, key, value in changes:
            if table == tables.ROWS and value is not None:
                self._on_row(server, key, value[:BALLOT_BYTES], value[BALLOT_BYTES:])
            elif table == tables.PROMISES and value is not None:
                self._on_promise(server, key, value)
        for table, key, value in changes:
            # Last: a write that came before the trim may be in the same commit.
            if table == tables.TRIMMED and value is not None:
                first, stop = int.from_bytes(key[4:], "big"), int.from_bytes(value[:8], "big")
                server.tombstones.setdefault(key[:4], set()).update(range(first, stop))

    def _on_row(self, server: _Server, key: bytes, ballot: bytes, value: bytes) -> None:
        space, segment = key[:4], int.from_bytes(key[4:12], "big")
        offset = int.from_bytes(key[12:], "big")
        place = (server.names[space], segment, offset)
        if segment in server.tombstones.get(space, ()):
            raise Violation(
                f"trim: {server.name} accepted a write under a tombstone", f"{place}: {value!r}"
            )
        promised = ballot_at(server.ranges(tables.PROMISES, key[:12]), offset)
        if ballot < promised:
            raise Violation(
                f"promise: {server.name} accepted below its promise",
                f"{place}: {value!r} under {show(ballot)}, promised {show(promised)}",
            )
        by_ballot = self._accepted.setdefault(place, {})
        known, voters = by_ballot.get(ballot, (value, 0))
        if known != value:
            raise Violation(
                f"one value per ballot: {place} has two under {show(ballot)}",
                f"{known!r} and, on {server.name}, {value!r}",
            )
        voters |= server.bit
        by_ballot[ballot] = (value, voters)
        if is_quorum(voters, self._size) and self.decided.setdefault(place, value) != value:
            raise Violation(
                f"immutability: majorities accepted two values for {place}",
                f"{self.decided[place]!r}, and {value!r} under {show(ballot)}; accepted:\n"
                + "\n".join(
                    f"  {show(b)}: {v!r} by {voters:b}"
                    for b, (v, voters) in sorted(by_ballot.items())
                ),
            )

    def _on_promise(self, server: _Server, key: bytes, stored: bytes) -> None:
        lo, hi = int.from_bytes(key[-8:], "big"), int.from_bytes(stored[:8], "big")
        for old in server.ranges(tables.PROMISES, key[:-8]):
            if old.lo < hi and lo < old.hi and old.ballot > stored[8:]:
                raise Violation(
                    f"promise: {server.name} lowered one",
                    f"[{old.lo}, {old.hi}) at {show(old.ballot)} under [{lo}, {hi}) at "
                    + show(stored[8:]),
                )

    # ------------------------------------------------------------ at the end

    def check(self) -> None:
        """Look at what the disks hold now.

        Raises:
            Violation: something is wrong, or was at any time.
        """
        if self.first is not None:
            raise self.first
        for server in self._servers:
            self._check_rows(server)
            for space, numbers in server.tombstones.items():
                kept: set[int] = set()
                for r in server.ranges(tables.TRIMMED, space):
                    kept.update(range(r.lo, r.hi))
                if not numbers <= kept:
                    raise Violation(
                        f"trim: {server.name} lost a tombstone",
                        f"{server.names[space]}: {sorted(numbers - kept)}",
                    )

    def _check_rows(self, server: _Server) -> None:
        promises: dict[bytes, tuple[Range, ...]] = {}
        marks: dict[bytes, tuple[Range, ...]] = {}
        for key, stored in server.disk.items(tables.ROWS):
            prefix, offset = key[:12], int.from_bytes(key[12:], "big")
            if prefix not in promises:
                promises[prefix] = server.ranges(tables.PROMISES, prefix)
                marks[prefix] = server.ranges(tables.DECIDED, prefix)
            ballot, value = stored[:BALLOT_BYTES], stored[BALLOT_BYTES:]
            place = (server.names[key[:4]], int.from_bytes(key[4:12], "big"), offset)
            if ballot_at(promises[prefix], offset) < ballot:
                raise Violation(
                    f"promise: {server.name} accepted without raising its promise", f"{place}"
                )
            if is_decided(marks[prefix], offset, ballot):
                # Of two writes in one commit only the later is seen, so a decision may be unknown.
                others = {v for v, _ in self._accepted[place].values()}
                decided = {self.decided[place]} if place in self.decided else others
                if decided != {value}:
                    raise Violation(
                        f"mark: {server.name} takes for decided what is not",
                        f"{place}: {value!r}, but decided is {sorted(decided)}",
                    )
