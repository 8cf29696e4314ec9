"""An engine without a disk: for `memory:`, and the model of what the others must do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sortedcontainers import SortedDict

from wormspace.errors import Closed
from wormspace.store.engine import Batch, Item, View


class MemoryEngine:
    """Tables in memory.  A batch keeps its changes to itself until it is committed."""

    def __init__(self) -> None:
        self._tables: dict[str, SortedDict[bytes, bytes]] = {}
        self._view = MemoryView(self._tables)

    @property
    def view(self) -> View:
        return self._view

    def begin(self) -> Batch:
        self._view.check()
        return _MemoryBatch(self._tables, self._view)

    async def commit(self, batch: Batch) -> None:
        self._view.check()
        if isinstance(batch, _MemoryBatch):
            batch.apply()

    def health(self) -> str:
        return ""

    def metrics(self) -> dict[str, int]:
        return {"store_bytes": self._view.size}

    def close(self) -> None:
        self._view.closed = True
        self._tables.clear()


class MemoryView:
    """Tables in memory as a view; what is changed in them is seen.

    Attributes:
        size: bytes of keys and values.
        closed: whether the store was closed; then there are no tables.
    """

    def __init__(self, tables: dict[str, SortedDict[bytes, bytes]]) -> None:
        self._tables = tables
        self.size = 0
        self.closed = False

    def check(self) -> None:
        """Raise `Closed` if the store was closed."""
        if self.closed:
            raise Closed("the store was closed")

    def get(self, table: str, key: bytes) -> bytes | None:
        t = self._tables.get(table)
        if t is None:
            self.check()
            return None
        value: bytes | None = t.get(key)
        return value

    def get_many(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        return [self.get(table, key) for key in keys]

    def scan(self, table: str, lo: bytes, hi: bytes) -> Iterator[Item]:
        t = self._tables.get(table)
        if t is None:
            self.check()
        else:
            for key in t.irange(lo, hi, inclusive=(True, False)):
                yield key, t[key]

    def descend(self, table: str, key: bytes) -> Iterator[Item]:
        """The items with keys up to `key`, in descending order."""
        t = self._tables.get(table)
        if t is None:
            self.check()
        else:
            for one in t.irange(maximum=key, reverse=True):
                yield one, t[one]

    def floor(self, table: str, key: bytes) -> Item | None:
        t = self._tables.get(table)
        if t is None:
            self.check()
            return None
        at = t.bisect_right(key) - 1
        if at < 0:
            return None
        found: Item = t.peekitem(at)
        return found


class _MemoryBatch(MemoryView):
    """Works on the tables themselves and remembers how to undo it.

    Nobody reads between `begin` and `commit`: the node commits in the same turn of the loop.
    """

    def __init__(self, tables: dict[str, SortedDict[bytes, bytes]], whole: MemoryView) -> None:
        super().__init__(tables)
        self._whole = whole
        self._undo: list[tuple[str, bytes, bytes | None]] = []

    def put(self, table: str, key: bytes, value: bytes) -> None:
        t = self._tables.setdefault(table, SortedDict())
        before = t.get(key)
        self._undo.append((table, key, before))
        t[key] = value
        self._whole.size += len(value) - (len(before) if before is not None else -len(key))

    def put_many(self, table: str, items: Iterable[Item]) -> None:
        for key, value in items:
            self.put(table, key, value)

    def delete(self, table: str, key: bytes) -> None:
        t = self._tables.get(table)
        if t is not None and key in t:
            before = t.pop(key)
            self._undo.append((table, key, before))
            self._whole.size -= len(key) + len(before)

    def apply(self) -> None:
        self._undo.clear()

    def abort(self) -> None:
        for table, key, value in reversed(self._undo.copy()):
            if value is None:
                self.delete(table, key)
            else:
                self.put(table, key, value)
        self._undo.clear()
