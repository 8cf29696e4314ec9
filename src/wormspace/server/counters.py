"""What a server counts."""

from __future__ import annotations

import msgspec


class Counters(msgspec.Struct):
    """What a node has done since it started.

    Attributes:
        damaged: requests that met damage in the store.
        faults: requests that met a fault of the server's own.
    """

    captures: int = 0
    writes: int = 0
    registers_written: int = 0
    registers_refused: int = 0
    reads: int = 0
    registers_read: int = 0
    trims: int = 0
    batches: int = 0
    batched_requests: int = 0
    store_full: int = 0
    bad_requests: int = 0
    damaged: int = 0
    faults: int = 0
    events: int = 0
    listeners_dropped: int = 0
    swept: int = 0
