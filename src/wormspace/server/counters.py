"""What a server counts."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from wormspace.paxos.messages import Capture, Trim, Write, Written
from wormspace.wire.messages import ServerMessage


class Counters(msgspec.Struct):
    """What a node has done since it started.

    Attributes:
        captures, writes, trims: those that were carried out, each once: what there was no room for,
            or what was handled anew without others, is not counted for the attempt.
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

    def count(
        self,
        requests: Iterable[tuple[Capture | Write | Trim, ServerMessage]],
        news: Iterable[Write | Trim],
        swept: int,
    ) -> None:
        """Count a batch that is committed.

        Args:
            requests: each with its answer.
            news: what of them changed anything.
            swept: how many keys of trimmed segments went with it.
        """
        self.batches += 1
        self.swept += swept
        for m, answer in requests:
            self.batched_requests += 1
            if isinstance(m, Write):
                self.writes += 1
                if isinstance(answer, Written):
                    self.registers_refused += len(answer.refused)
            elif isinstance(m, Capture):
                self.captures += 1
            else:
                self.trims += 1
        for m in news:
            if isinstance(m, Write):
                self.registers_written += len(m.offsets)
