"""Changes that are not durable yet, over a view of what is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec
from sortedcontainers import SortedList

from wormspace.store.bare import Bare
from wormspace.store.engine import Item, View

MANY = 8
"""So many rows deleted one beside the other are worth being remembered as a span."""

Tables = dict[str, dict[bytes, bytes | None]]
"""By table and key, the new value; None where the key is deleted."""

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Tables).decode


def puts(changes: Tables, tables: Iterable[str], free: Callable[[str, bytes, bytes], bool]) -> bool:
    """Whether something is put into one of these tables that is not free."""
    return any(
        value is not None and not free(table, key, value)
        for table in tables
        for key, value in changes.get(table, {}).items()
    )


class Below(View, Protocol):
    """A view that can also be walked downward."""

    def descend(self, table: str, key: bytes) -> Iterator[Item]:
        """The items with keys up to `key`, in descending order."""


class Changes:
    """A `Batch` in memory: nothing below it changes before it is durable.

    Every operation costs the logarithm of the batch's size, and a `floor` or a step of a scan one
    more for each row right there that this batch deletes: of `MANY` or more, only the first time
    that they are passed.  Keys are kept in order only for tables in which somebody looks for them
    in order.

    Attributes:
        tables: what changes.
    """

    def __init__(self, below: Below) -> None:
        self._below = below
        self._order: dict[str, SortedList[bytes]] = {}
        self._bare: dict[str, Bare] = {}
        self.tables: Tables = {}

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._set(table, key, value)

    def put_many(self, table: str, items: Iterable[Item]) -> None:
        own = self.tables.setdefault(table, {})
        order = self._order.get(table)
        if order is None:
            own.update(items)
            return
        new = dict(items)
        order.update([key for key in new if key not in own])
        own.update(new)
        if table in self._bare:
            for key in new:
                self._bare[table].cut(key)

    def delete(self, table: str, key: bytes) -> None:
        self._set(table, key, None)

    def _set(self, table: str, key: bytes, value: bytes | None) -> None:
        own = self.tables.setdefault(table, {})
        order = self._order.get(table)
        if order is not None and key not in own:
            order.add(key)
        own[key] = value
        if value is not None and table in self._bare:
            self._bare[table].cut(key)

    def abort(self) -> None:
        self.tables.clear()
        self._order.clear()
        self._bare.clear()

    def get(self, table: str, key: bytes) -> bytes | None:
        own = self.tables.get(table)
        if own and key in own:
            return own[key]
        return self._below.get(table, key)

    def get_many(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        found = self._below.get_many(table, keys)
        own = self.tables.get(table)
        if own and not own.keys().isdisjoint(keys):
            return [own.get(key, held) for key, held in zip(keys, found, strict=True)]
        return found

    def scan(self, table: str, lo: bytes, hi: bytes) -> Iterator[Item]:
        """See `View`; what this batch changes ahead of a scan, the scan sees."""
        own = self.tables.get(table)
        return self._merge(table, own, lo, hi) if own else self._below.scan(table, lo, hi)

    def _merge(
        self, table: str, own: dict[bytes, bytes | None], lo: bytes, hi: bytes
    ) -> Iterator[Item]:
        """The items of both in [lo, hi) in order; where both have a key, ours counts."""
        order = self._sorted(table, own)
        below = self._below.scan(table, lo, hi)
        held = next(below, None)
        begin, passed = lo, 0  # deleted rows, since the last one that is there
        while True:
            at = order.bisect_left(lo)  # anew: the batch may have grown meanwhile
            mine: bytes | None = order[at] if at < len(order) and order[at] < hi else None
            if mine is not None and (held is None or mine <= held[0]):
                if held is not None and held[0] == mine:
                    held = next(below, None)
                value = own[mine]
                if value is not None:
                    self._learn(table, begin, mine, passed)
                    yield mine, value
                    begin, passed = mine + b"\0", 0
                    lo = begin
                    continue
                passed += 1
                lo = max(mine + b"\0", self._around(table, mine)[1])
                if held is not None and held[0] < lo:
                    below = self._below.scan(table, lo, hi)
                    held = next(below, None)
            elif held is not None:
                self._learn(table, begin, held[0], passed)
                lo, item = held[0] + b"\0", held
                yield item
                begin, passed = lo, 0
                held = next(below, None)
            else:
                self._learn(table, begin, hi, passed)
                return

    def floor(self, table: str, key: bytes) -> Item | None:
        own = self.tables.get(table)
        if not own:
            return self._below.floor(table, key)
        order = self._sorted(table, own)
        end, passed = key + b"\0", 0
        lo = self._around(table, end)[0]
        at, below = order.bisect_left(lo), self._before(table, lo)
        held = next(below, None)
        while at and (held is None or order[at - 1] >= held[0]):
            at -= 1
            mine: bytes = order[at]
            value = own[mine]
            if value is not None:
                held = mine, value
                break
            passed += 1
            if held is not None and held[0] == mine:
                held = next(below, None)
            lo = self._around(table, mine)[0]
            if lo < mine:
                at, below = order.bisect_left(lo), self._before(table, lo)
                held = next(below, None)
        self._learn(table, held[0] + b"\0" if held is not None else b"", end, passed)
        return held

    def _before(self, table: str, key: bytes) -> Iterator[Item]:
        """What is below of the items with keys below `key`, in descending order."""
        items = self._below.descend(table, key)
        return (item for item in items if item[0] != key)

    def _around(self, table: str, key: bytes) -> tuple[bytes, bytes]:
        bare = self._bare.get(table)
        return bare.around(key) if bare is not None else (key, key)

    def _learn(self, table: str, lo: bytes, hi: bytes, passed: int) -> None:
        """There is nothing in [lo, hi), where so many deleted rows were passed."""
        if passed >= MANY:
            self._bare.setdefault(table, Bare()).add(lo, hi)

    def _sorted(self, table: str, own: dict[bytes, bytes | None]) -> SortedList[bytes]:
        order = self._order.get(table)
        if order is None:
            order = self._order[table] = SortedList(own)
        return order
