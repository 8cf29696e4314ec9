"""Changes that are not durable yet, over a view of what is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from wormspace.store.engine import Item, View

Tables = dict[str, dict[bytes, bytes | None]]
"""By table and key, the new value; None where the key is deleted."""

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Tables).decode


class Below(View, Protocol):
    """A view that can also be walked downward."""

    def descend(self, table: str, key: bytes) -> Iterator[Item]:
        """The items with keys up to `key`, in descending order."""


class Changes:
    """A `Batch` in memory: nothing below it changes before it is durable.

    Attributes:
        tables: what changes.
    """

    def __init__(self, below: Below) -> None:
        self._below = below
        self.tables: Tables = {}

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.tables.setdefault(table, {})[key] = value

    def put_many(self, table: str, items: Iterable[Item]) -> None:
        self.tables.setdefault(table, {}).update(items)

    def delete(self, table: str, key: bytes) -> None:
        self.tables.setdefault(table, {})[key] = None

    def abort(self) -> None:
        self.tables.clear()

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
        below = self._below.scan(table, lo, hi)
        own = self.tables.get(table)
        mine = sorted(key for key in own if lo <= key < hi) if own else []
        return _merge(below, own, mine) if own and mine else below

    def floor(self, table: str, key: bytes) -> Item | None:
        own = self.tables.get(table)
        if not own:
            return self._below.floor(table, key)
        found = next((item for item in self._below.descend(table, key) if item[0] not in own), None)
        mine = [(k, value) for k, value in own.items() if value is not None and k <= key]
        return max([*mine, *([found] if found else [])], default=None)


def _merge(
    below: Iterator[Item], own: dict[bytes, bytes | None], mine: list[bytes]
) -> Iterator[Item]:
    """The items of both in order; where both have a key, ours counts."""
    at = 0
    for item in below:
        while at < len(mine) and mine[at] < item[0]:
            yield from _held(own, mine[at])
            at += 1
        if item[0] not in own:
            yield item
    for key in mine[at:]:
        yield from _held(own, key)


def _held(own: dict[bytes, bytes | None], key: bytes) -> Iterator[Item]:
    value = own[key]
    if value is not None:
        yield key, value
