"""A server's store on disk."""

from __future__ import annotations

from wormspace.addresses import TRIM
from wormspace.server.tables import COUNTERS, DECIDED, GARBAGE, PROMISES, ROWS, SPACES, TRIMMED
from wormspace.store.lmdb_engine import LmdbEngine

_TRIM = TRIM.to_bytes(4, "big")
"""With this the key of the register ends that decides a segment's trim."""

_SMALL_BYTES = 64
"""More than a ballot and the word that everybody writes there."""


class AcceptorStore(LmdbEngine):
    """The tables of `tables.py`, and who the server is.

    Tombstones, and the registers that decide a trim, may grow in a full store, or it could never be
    trimmed.
    """

    tables = ("identity", SPACES, ROWS, PROMISES, DECIDED, TRIMMED, GARBAGE, COUNTERS)
    growing = (SPACES, ROWS, PROMISES, DECIDED)

    @classmethod
    def frees(cls, table: str, key: bytes, value: bytes) -> bool:
        return table == ROWS and len(value) <= _SMALL_BYTES and key.endswith(_TRIM)
