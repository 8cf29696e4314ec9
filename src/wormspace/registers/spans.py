"""Spans of numbers, and sets of numbers: as spans, however long these are, or as bits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from wormspace.addresses import Span

_CHUNK_BITS = 10
_CHUNK = 1 << _CHUNK_BITS
_MASK = _CHUNK - 1


class SpanSet:
    """A set of numbers from 0 on: disjoint spans that do not touch, in order.

    Each operation costs the logarithm of the spans there are, and the spans it joins or returns.
    """

    __slots__ = ("_his", "_los")

    def __init__(self, below: int = 0) -> None:
        self._los: list[int] = []
        self._his: list[int] = []
        self.add(0, below)

    @property
    def below(self) -> int:
        """The first number that is not in the set."""
        return self.next_missing(0)

    def add(self, lo: int, hi: int) -> None:
        """Put [lo, hi) into the set."""
        if lo >= hi:
            return
        first, last = bisect_left(self._his, lo), bisect_right(self._los, hi)
        if first < last:
            lo, hi = min(lo, self._los[first]), max(hi, self._his[last - 1])
        self._los[first:last], self._his[first:last] = [lo], [hi]

    def __contains__(self, number: int) -> bool:
        return self.next_missing(number) != number

    def next_missing(self, number: int) -> int:
        """The first number from `number` on that is not in the set."""
        i = bisect_right(self._los, number) - 1
        return max(number, self._his[i]) if i >= 0 else number

    def missing(self, lo: int, hi: int) -> list[Span]:
        """What of [lo, hi) is not in the set, as ascending spans."""
        spans: list[Span] = []
        i = bisect_right(self._his, lo)
        while lo < hi:
            start = self._los[i] if i < len(self._los) else hi
            if start > lo:
                spans.append((lo, min(start, hi)))
            if start >= hi:
                break
            lo = self._his[i]
            i += 1
        return spans

    def spans(self) -> list[Span]:
        """All of it, as ascending spans."""
        return list(zip(self._los, self._his, strict=True))


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


def as_spans(offsets: Sequence[int]) -> tuple[Span, ...]:
    """Ascending offsets, each once, as the spans they make up."""
    if offsets and offsets[-1] - offsets[0] == len(offsets) - 1:
        return ((offsets[0], offsets[-1] + 1),)
    spans: list[Span] = []
    for offset in offsets:
        if spans and spans[-1][1] == offset:
            spans[-1] = (spans[-1][0], offset + 1)
        else:
            spans.append((offset, offset + 1))
    return tuple(spans)


def after(spans: list[Span], end: int) -> list[Span]:
    """What of ascending spans lies at `end` and above; looks at few of them."""
    rest = spans[bisect_right(spans, end, key=lambda span: span[1]) :]
    if rest and rest[0][0] < end:
        rest[0] = (end, rest[0][1])
    return rest


def shares(spans: list[Span], most: int) -> list[list[Span]]:
    """Spans as up to so many lists of about equal size, ascending, to be read at the same time."""
    if len(spans) == 1:
        [(lo, hi)] = spans
        step = -(-(hi - lo) // most)
        return [[(at, min(at + step, hi))] for at in range(lo, hi, step)]
    step = -(-len(spans) // most)
    return [spans[at : at + step] for at in range(0, len(spans), step)]
