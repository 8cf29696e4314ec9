"""What happened, cheaply: the last events in words, and a hash of all of them.

An event is a virtual time, a host, a %-format and its plain arguments. The words are made only when
somebody reads them. Events are hashed in batches over their marshalled values, so recording one
costs well under a microsecond; marshal format 2 encodes by value alone (no object identity, no
interning), so that two runs of one seed give the same digest in any process.
"""

from __future__ import annotations

import hashlib
import marshal
from collections import deque
from collections.abc import Iterator

Plain = None | bool | int | float | str | bytes
Event = tuple[float, str, str, tuple[Plain, ...]]

_BATCH = 512
# Format 2 has binary floats, but no marks for shared or interned objects: those show identity.
_MARSHAL_BY_VALUE = 2


class Trace:
    """The last `capacity` events, and a running hash of every event."""

    __slots__ = ("_batch", "_hash", "_ring", "count")

    def __init__(self, capacity: int = 2000) -> None:
        self._ring: deque[Event] = deque(maxlen=capacity)
        self._batch: list[Event] = []
        self._hash = hashlib.blake2b(digest_size=16)
        self.count = 0

    def add(self, time_s: float, host: str, text: str, *args: Plain) -> None:
        """Record an event; `text % args` are its words.

        The arguments must be plain values: anything else raises ValueError when it is hashed.
        """
        self.count += 1
        self._batch.append((time_s, host, text, args))
        if len(self._batch) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._hash.update(marshal.dumps(self._batch, _MARSHAL_BY_VALUE))
        self._ring.extend(self._batch)
        self._batch.clear()

    def digest(self) -> str:
        """The hash, in hex, of all events so far."""
        total = self._hash.copy()
        total.update(marshal.dumps(self._batch, _MARSHAL_BY_VALUE))
        return total.hexdigest()

    def lines(self) -> Iterator[str]:
        """The remembered events as text, oldest first."""
        for time_s, host, text, args in (*self._ring, *self._batch):
            yield f"{time_s:12.6f}  {host:<8} {text % args if args else text}"

    def transcript(self, last: int = 200) -> str:
        """The last events as text, one per line, and a line that says how many came before."""
        lines = list(self.lines())[-last:]
        hidden = self.count - len(lines)
        if hidden:
            lines.insert(0, f"... {hidden} earlier events")
        return "\n".join(lines)
