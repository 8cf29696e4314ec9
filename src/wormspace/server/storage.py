"""A server's store on disk."""

from __future__ import annotations

from wormspace.server.tables import COUNTERS, DECIDED, GARBAGE, PROMISES, ROWS, SPACES, TRIMMED
from wormspace.store.lmdb_engine import LmdbEngine


class AcceptorStore(LmdbEngine):
    """The tables of `tables.py`, and who the server is.

    Tombstones may grow in a full store, or it could never be trimmed.
    """

    tables = ("identity", SPACES, ROWS, PROMISES, DECIDED, TRIMMED, GARBAGE, COUNTERS)
    growing = (SPACES, ROWS, PROMISES, DECIDED)
