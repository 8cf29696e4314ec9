"""What is needed from a disk: an ordered key-value store with one writer and snapshots.

A commit is all or nothing, and done only when it is as durable as promised.  Readers see the last
commit that is done, never one under way.  Implementations: `lmdb_engine` (the product),
`memory_engine` (no disk), and the simulator's disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias

Item: TypeAlias = tuple[bytes, bytes]


class View(Protocol):
    """A consistent state of the store.  Use it within one turn of the event loop.

    Every method raises `StoreDamaged` where a row is not what was written, and `Closed` after the
    store was closed.  Each look costs the logarithm of the store's size, and each row that it
    yields.
    """

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of `key`, if any."""

    def get_many(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        """The value of each key, in the order of `keys`."""

    def scan(self, table: str, lo: bytes, hi: bytes) -> Iterator[Item]:
        """The items with lo <= key < hi, in ascending order."""

    def floor(self, table: str, key: bytes) -> Item | None:
        """The item with the greatest key that is not above `key`."""


class Batch(View, Protocol):
    """Changes to be committed together; as a view, it sees its own."""

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set `key`."""

    def put_many(self, table: str, items: Iterable[Item]) -> None:
        """Set many keys, in the order given."""

    def delete(self, table: str, key: bytes) -> None:
        """Forget `key`, if it is there."""

    def abort(self) -> None:
        """Drop the changes."""


class Engine(Protocol):
    """An open store.  At most one batch at a time is begun and not yet committed or aborted."""

    @property
    def view(self) -> View:
        """The state as of the last commit that is done."""

    def begin(self) -> Batch:
        """Begin a batch.

        Raises:
            StoreFull: there is no room even to begin.
            Closed
        """

    async def commit(self, batch: Batch) -> None:
        """Make a batch durable.  The event loop goes on meanwhile.

        To cancel it half-way makes the store fail.

        Raises:
            StoreFull: no room; nothing was changed.
            UsageError: a key is empty or too long, or there is no such table.
            StoreError: any other means that the store takes no batch any more: what is on disk is
                not certain.  Open it anew; the batch may be there or not.
            Closed: nothing was changed.
        """

    def health(self) -> str:
        """What is wrong with the store, and what to do; empty if all is well."""

    def metrics(self) -> dict[str, int]:
        """Sizes and counts for the status message."""

    def close(self) -> None:
        """Close the store, if it is open; nothing may be under way."""
