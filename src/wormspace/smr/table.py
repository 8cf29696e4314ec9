"""A large ordered mapping whose snapshots do not stop the world.

A plain `dict` in a state machine is encoded in one go when a snapshot is taken, and the replica
does nothing else meanwhile.  A `Table` is *frozen* in no time and then encoded piece by piece, in
the order of keys, while commands go on: whoever changes a row that has not been encoded yet puts
the old one aside first (copy on write, one row at a time, without `fork`).

Its values must be immutable: a value changed in place would escape the copying.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from itertools import islice
from typing import Any, Generic, TypeVar

from sortedcontainers import SortedDict, SortedList

K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Any = object()


class Table(MutableMapping[K, V]):
    """A mapping in the order of its keys, for state of any size.

    class Inventory(StateMachine):
        stock: Table[str, int]

    Attributes:
        rows: what it holds in no order, for a quick look; only the table's methods may change it.
    """

    __slots__ = ("_frozen", "_keys", "get", "rows")

    def __init__(self) -> None:
        self.rows: dict[K, V] = {}
        self._keys: SortedList[K] = SortedList()
        self._frozen: list[FrozenTable[K, V]] = []
        self.get = self.rows.get  # type: ignore[method-assign]  # called most: without a detour

    def __getitem__(self, key: K) -> V:
        return self.rows[key]

    def __contains__(self, key: object) -> bool:
        return key in self.rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[K]:
        keys: Iterator[K] = iter(self._keys)
        return keys

    def __setitem__(self, key: K, value: V) -> None:
        if self._frozen:
            self._put_aside(key)
        rows = self.rows
        if key not in rows:
            self._keys.add(key)
        rows[key] = value

    def __delitem__(self, key: K) -> None:
        if self._frozen and key in self.rows:
            self._put_aside(key)
        del self.rows[key]
        self._keys.remove(key)

    def scan(self, start: K | None = None, stop: K | None = None) -> Iterator[tuple[K, V]]:
        """The rows of [start, stop) in order; None is no bound.  Change nothing meanwhile."""
        for key in self._keys.irange(start, stop, inclusive=(True, False)):
            yield key, self.rows[key]

    def freeze(self) -> FrozenTable[K, V]:
        """The table as it is now, to be read while it changes.  `close` it in the end."""
        frozen = FrozenTable(self)
        self._frozen.append(frozen)
        return frozen

    def _put_aside(self, key: K) -> None:
        old = self.get(key, _ABSENT)
        for frozen in self._frozen:
            frozen.save(key, old)


class FrozenTable(Generic[K, V]):
    """A table as it was at one moment.  What was not handed out yet is kept from changing."""

    def __init__(self, table: Table[K, V]) -> None:
        self._table = table
        self._cursor: Any = _ABSENT
        self._saved: Any = SortedDict()

    def save(self, key: K, old: Any) -> None:
        """The row is about to change; `old` is what it holds (or `_ABSENT`)."""
        handed_out = self._cursor is not _ABSENT and key <= self._cursor
        if not handed_out and key not in self._saved:
            self._saved[key] = old

    def take(self, limit: int) -> list[tuple[K, V]]:
        """The next rows, about `limit` of them; empty when there are no more."""
        while True:
            rows = self._table.rows
            bound = () if self._cursor is _ABSENT else (self._cursor,)
            keys = list(
                islice(self._table._keys.irange(*bound, inclusive=(not bound, True)), limit)
            )
            old = self._saved
            saved = list(old if len(keys) < limit else old.irange(None, keys[-1]))
            if not keys and not saved:
                return []
            last = max([*keys[-1:], *saved[-1:]])
            values = {key: rows[key] for key in keys}
            for key in saved:
                values[key] = old.pop(key)
            self._cursor = last
            taken = [(k, v) for k, v in sorted(values.items()) if v is not _ABSENT]
            if taken:
                return taken

    def close(self) -> None:
        """No more of it is wanted."""
        if self in self._table._frozen:
            self._table._frozen.remove(self)
