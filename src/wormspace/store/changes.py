"""Changes that are not durable yet, over a view of what is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec
from sortedcontainers import SortedList

from wormspace.store.engine import Item, View

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
    more for each row right there that this batch deletes.  Keys are kept in order only for tables
    in which somebody looks for them in order.

    Attributes:
        tables: what changes.
    """

    def __init__(self, below: Below) -> None:
        self._below = below
        self._order: dict[str, SortedList[bytes]] = {}
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

    def delete(self, table: str, key: bytes) -> None:
        self._set(table, key, None)

    def _set(self, table: str, key: bytes, value: bytes | None) -> None:
        own = self.tables.setdefault(table, {})
        order = self._order.get(table)
        if order is not None and key not in own:
            order.add(key)
        own[key] = value

    def abort(self) -> None:
        self.tables.clear()
        self._order.clear()

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
        below = self._below.scan(table, lo, hi)
        own = self.tables.get(table)
        return _merge(below, own, self._sorted(table, own), lo, hi) if own else below

    def floor(self, table: str, key: bytes) -> Item | None:
        own = self.tables.get(table)
        if not own:
            return self._below.floor(table, key)
        order = self._sorted(table, own)
        at = order.bisect_right(key) - 1
        below = self._below.descend(table, key)
        held = next(below, None)
        while at >= 0 and (held is None or order[at] >= held[0]):
            mine: bytes = order[at]
            value = own[mine]
            if value is not None:
                return mine, value
            if held is not None and held[0] == mine:
                held = next(below, None)
            at -= 1
        return held

    def _sorted(self, table: str, own: dict[bytes, bytes | None]) -> SortedList[bytes]:
        order = self._order.get(table)
        if order is None:
            order = self._order[table] = SortedList(own)
        return order


def _merge(
    below: Iterator[Item],
    own: dict[bytes, bytes | None],
    order: SortedList[bytes],
    lo: bytes,
    hi: bytes,
) -> Iterator[Item]:
    """The items of both in [lo, hi) in order; where both have a key, ours counts."""
    held = next(below, None)
    at = order.bisect_left(lo)
    while True:
        mine: bytes | None = order[at] if at < len(order) and order[at] < hi else None
        if mine is not None and (held is None or mine <= held[0]):
            if held is not None and held[0] == mine:
                held = next(below, None)
            value = own[mine]
            if value is not None:
                yield mine, value
            at = order.bisect_right(mine)  # anew: the batch may have grown meanwhile
        elif held is not None:
            last, item = held[0], held
            yield item
            held = next(below, None)
            at = order.bisect_right(last)
        else:
            return
