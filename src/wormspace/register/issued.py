"""What was written under a ballot, so that no second value ever is.

The rule "one value per ballot and register" is kept by three: an acceptor refuses a second value,
but only if it has seen the first; a token names what was written before it; and this is the
third, the client's memory of what it issued itself, for as long as it holds the token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from wormspace.paxos.messages import Span

_CHUNK_BITS = 10
_CHUNK = 1 << _CHUNK_BITS
_MASK = _CHUNK - 1


class OffsetSet:
    """A growing set of offsets: one bit each, in chunks of 1024."""

    __slots__ = ("_chunks",)

    def __init__(self) -> None:
        self._chunks: dict[int, int] = {}

    def add(self, offset: int) -> None:
        """Put `offset` into the set."""
        chunks = self._chunks
        at = offset >> _CHUNK_BITS
        chunks[at] = chunks.get(at, 0) | 1 << (offset & _MASK)

    def add_span(self, lo: int, hi: int) -> None:
        """Put [lo, hi) into the set."""
        while lo < hi:
            at = lo >> _CHUNK_BITS
            stop = min(hi, (at + 1) << _CHUNK_BITS)
            bits = ((1 << stop - lo) - 1) << (lo & _MASK)
            self._chunks[at] = self._chunks.get(at, 0) | bits
            lo = stop

    def missing(self, lo: int, hi: int, most: int) -> list[Span]:
        """What of [lo, hi) is not in the set, as ascending spans; costs what is in the set.

        At most so many: the last one reaches up to `hi`, whatever is in the set there.
        """
        spans: list[Span] = []
        for start, stop in self._runs():
            if start >= hi or len(spans) >= most - 1:
                break
            if start > lo:
                spans.append((lo, start))
            lo = max(lo, stop)
        if lo < hi:
            spans.append((lo, hi))
        return spans

    def _runs(self) -> Iterator[Span]:
        """What is in the set, as ascending spans (that may touch)."""
        for at in sorted(self._chunks):
            bits, start = self._chunks[at], at << _CHUNK_BITS
            while bits:
                free = (bits & -bits).bit_length() - 1
                bits >>= free
                taken = (~bits & bits + 1).bit_length() - 1
                bits >>= taken
                yield start + free, start + free + taken
                start += free + taken

    def __contains__(self, offset: int) -> bool:
        return self._chunks.get(offset >> _CHUNK_BITS, 0) >> (offset & _MASK) & 1 == 1


class Issued:
    """What this client has written under one ballot in one array.

    `open` are the writes that somebody waits for, with their values, and `doubt` those whose
    outcome is not known, with digests: only those very values may be sent again.  `settled` are the
    registers known to be decided: nothing more is sent.
    """

    __slots__ = ("doubt", "open", "settled")

    def __init__(self) -> None:
        self.open: dict[int, bytes] = {}
        self.doubt: dict[int, bytes] = {}
        self.settled = OffsetSet()

    def issue(self, offset: int, value: bytes) -> bool:
        """The value is about to be sent; false if another one was."""
        known = self.open.get(offset)
        if known is not None:
            return known == value
        if self.doubt:
            digest = self.doubt.get(offset)
            if digest is not None and digest != _digest(value):
                return False
            self.doubt.pop(offset, None)
        self.open[offset] = value
        return True

    def give_up(self, offset: int) -> None:
        """Nobody waits any more; the value may have been accepted somewhere."""
        value = self.open.pop(offset, None)
        if value is not None:
            self.doubt[offset] = _digest(value)

    def settle(self, spans: Iterable[Span]) -> None:
        """The registers are decided, with the values that were issued."""
        for lo, hi in spans:
            self.settled.add_span(lo, hi)
            for offset in range(lo, hi):
                self.open.pop(offset, None)


def _digest(value: bytes) -> bytes:
    """What is kept of a value that may be large."""
    return hashlib.blake2b(value, digest_size=16).digest()
