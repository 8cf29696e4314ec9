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
from typing import Any, Generic, Self, TypeVar

from sortedcontainers import SortedDict, SortedList

K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Any = object()


class Table(dict[K, V]):
    """A mapping in the order of its keys, for state of any size.

    class Inventory(StateMachine):
        stock: Table[str, int]
    """

    # Looking up is a dict's own, at its speed; the order is kept beside it.  Whatever else
    # iterates or changes goes through __iter__, __setitem__ and __delitem__.

    __slots__ = ("_frozen", "_keys")

    def __init__(self) -> None:
        super().__init__()
        self._keys: SortedList[K] = SortedList()
        self._frozen: list[FrozenTable[K, V]] = []

    def __iter__(self) -> Iterator[K]:
        keys: Iterator[K] = iter(self._keys)
        return keys

    def __reversed__(self) -> Iterator[K]:
        keys: Iterator[K] = reversed(self._keys)
        return keys

    def __setitem__(self, key: K, value: V) -> None:
        if self._frozen:
            self._put_aside(key)
        if key not in self:
            self._keys.add(key)
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: K) -> None:
        if self._frozen and key in self:
            self._put_aside(key)
        dict.__delitem__(self, key)
        self._keys.remove(key)

    keys = MutableMapping.keys  # type: ignore[assignment]
    values = MutableMapping.values  # type: ignore[assignment]
    items = MutableMapping.items  # type: ignore[assignment]
    popitem = MutableMapping.popitem
    clear = MutableMapping.clear
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault

    def pop(self, key: K, default: Any = _ABSENT) -> V | Any:
        """Remove a row; its value, or `default` if one is given and there is no such row."""
        value = self.get(key, _ABSENT)
        if value is not _ABSENT:
            del self[key]
        elif default is _ABSENT:
            raise KeyError(key)
        else:
            value = default
        return value

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def scan(self, start: K | None = None, stop: K | None = None) -> Iterator[tuple[K, V]]:
        """The rows of [start, stop) in order; None is no bound.  Change nothing meanwhile."""
        for key in self._keys.irange(start, stop, inclusive=(True, False)):
            yield key, self[key]

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
            rows = self._table
            bound = () if self._cursor is _ABSENT else (self._cursor,)
            keys = list(islice(rows._keys.irange(*bound, inclusive=(not bound, True)), limit))
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
