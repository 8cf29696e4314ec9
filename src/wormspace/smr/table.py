"""A large ordered mapping whose snapshots do not stop the world.

A plain `dict` in a state machine has no order of keys, and the first key that comes or goes while a
snapshot is taken copies all others (some 15 ms for a million).  A `Table` is *frozen* in no time
and then encoded piece by piece, in the order of keys, while commands go on: whoever changes a row
that has not been encoded yet puts the old one aside first (copy on write, one row at a time,
without `fork`).

To set a row is what state machines do most.  So a table is a `dict`, and sets rows as fast as one:
the order of its keys is brought up to date later, and only while it is frozen it is of a class that
puts rows aside.

Its values must be immutable: a value changed in place would escape the copying.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from itertools import islice
from typing import Any, Generic, TypeVar, overload

from sortedcontainers import SortedDict, SortedList

from wormspace.smr.kinds import Kind
from wormspace.smr.undo_journal import UndoJournal, held_key

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_ABSENT: Any = object()


class Table(dict[K, V]):
    """A mapping in the order of its keys, for state of any size.

        class Inventory(StateMachine):
            stock: Table[str, int]

    A new state machine begins with an empty one.
    """

    __slots__ = ("_frozen", "_keys")

    def __init__(self) -> None:
        super().__init__()
        self._keys: SortedList[K] = SortedList()
        self._frozen: list[FrozenTable[K, V]] = []

    def fill(self, rows: list[tuple[K, V]]) -> None:
        """Add rows of a snapshot."""
        super().update(rows)
        self.settle()

    def settle(self) -> SortedList[K]:
        """Put the keys that are new into their places; all of them, in order.

        Whoever looks at the order does this first.  Now and then in between, it never takes long.
        """
        # A dict keeps the order in which keys came, and none goes without `__delitem__`.
        new = len(self) - len(self._keys)
        if new:
            try:
                self._keys.update(islice(super().__reversed__(), new))
            except TypeError:  # not to be compared: some of them may be in their places
                self._keys.clear()
                raise
        return self._keys

    def __iter__(self) -> Iterator[K]:
        return self._each(iter(self.settle()))

    def __reversed__(self) -> Iterator[K]:
        return self._each(reversed(self.settle()))

    def _each(self, keys: Iterator[K]) -> Iterator[K]:
        # What comes after a change would depend on where the list of keys happens to be split,
        # which is not the same on all replicas.
        size = len(self)
        for key in keys:
            yield key
            if len(self) != size:
                raise RuntimeError("a Table changed size while it was iterated over")

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self.settle().remove(key)
        super().__delitem__(key)

    def scan(self, start: K | None = None, stop: K | None = None) -> Iterator[tuple[K, V]]:
        """The rows of [start, stop) in order; None is no bound.

        Raises:
            RuntimeError: rows came or went meanwhile.
        """
        for key in self._each(self.settle().irange(start, stop, inclusive=(True, False))):
            yield key, self[key]

    def freeze(self) -> FrozenTable[K, V]:
        """The table as it is now, to be read while it changes.  `close` it in the end."""
        frozen = FrozenTable(self)
        self._frozen.append(frozen)
        if type(self) is Table:
            self.__class__ = _Watched
        return frozen

    def thaw(self, frozen: FrozenTable[K, V]) -> None:
        """That image is not wanted any more."""
        if frozen in self._frozen:
            self._frozen.remove(frozen)
        if not self._frozen and type(self) is _Watched:
            self.__class__ = Table  # type: ignore[assignment]

    # What a dict does past the methods above, a mapping does with them.
    keys = MutableMapping.keys  # type: ignore[assignment]
    values = MutableMapping.values  # type: ignore[assignment]
    items = MutableMapping.items  # type: ignore[assignment]
    popitem = MutableMapping.popitem
    setdefault = MutableMapping.setdefault
    update = MutableMapping.update
    clear = MutableMapping.clear

    @overload
    def pop(self, key: K, /) -> V: ...
    @overload
    def pop(self, key: K, default: D, /) -> V | D: ...
    def pop(self, key: K, default: Any = _ABSENT, /) -> Any:
        """Remove a row; its value, or the default, if there is one."""
        if key not in self:
            if default is _ABSENT:
                raise KeyError(key)
            return default
        value = self[key]
        del self[key]
        return value

    def copy(self) -> dict[K, V]:
        """The rows in a dictionary of their own, in order."""
        return dict(self.items())

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return self.copy() | dict(other)

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return dict(other) | self.copy()

    def __ior__(self, other: Any) -> Table[K, V]:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __repr__(self) -> str:
        return f"Table({self.copy()!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled, it is a table of its own, that is not frozen."""
        return Table, (), None, None, iter(self.items())


class _Watched(Table[K, V]):
    """A table while it is frozen."""

    __slots__ = ()

    def __setitem__(self, key: K, value: V) -> None:
        self._put_aside(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: K) -> None:
        if key in self:
            self._put_aside(key)
        super().__delitem__(key)

    def _put_aside(self, key: K) -> None:
        old = self.get(key, _ABSENT)
        for frozen in self._frozen:
            frozen.save(key, old)


class StateTable(_Watched[K, V]):
    """A table that is part of the state: it looks at its rows, and changes can be undone."""

    __slots__ = ("_check_key", "_check_row", "_journal")

    def __init__(self, key: Kind, row: Kind, journal: UndoJournal) -> None:
        super().__init__()
        self._check_key, self._check_row, self._journal = key.check, row.check, journal

    def __setitem__(self, key: K, value: V) -> None:
        key, value = self._check_key(key), self._check_row(value)
        undo = self._journal.change()
        if undo is not None:
            undo.append((_put_back, (self, key, self.get(key, _ABSENT))))
        if self._frozen:
            self._put_aside(key)
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: K) -> None:
        old = self[key]
        key = held_key(self, key)
        undo = self._journal.change()
        if undo is not None:
            undo.append((_put_back, (self, key, old)))
        super().__delitem__(key)


def _put_back(table: StateTable[K, V], key: K, old: V) -> None:
    """Undo what was done to a row."""
    if old is _ABSENT:
        _Watched.__delitem__(table, key)
    else:
        _Watched.__setitem__(table, key, old)


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
            table = self._table
            bound = () if self._cursor is _ABSENT else (self._cursor,)
            keys = list(islice(table.settle().irange(*bound, inclusive=(not bound, True)), limit))
            old = self._saved
            saved = list(old if len(keys) < limit else old.irange(None, keys[-1]))
            if not keys and not saved:
                return []
            last = max([*keys[-1:], *saved[-1:]])
            values = {key: table[key] for key in keys}
            for key in saved:
                values[key] = old.pop(key)
            self._cursor = last
            taken = [(k, v) for k, v in sorted(values.items()) if v is not _ABSENT]
            if taken:
                return taken

    def close(self) -> None:
        """No more of it is wanted."""
        self._table.thaw(self)
