"""Sets of numbers that are as small as the number of their spans, however long these are."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from wormspace.paxos.messages import Span


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
