"""Spans of keys in which a batch is known to have nothing, however much it has deleted there."""

from __future__ import annotations

from sortedcontainers import SortedDict


class Bare:
    """Spans [lo, hi) of one table, none of which touches another.

    Each operation costs the logarithm of the spans, and the spans it joins.
    """

    def __init__(self) -> None:
        self._his: SortedDict[bytes, bytes] = SortedDict()

    def add(self, lo: bytes, hi: bytes) -> None:
        """There is nothing in [lo, hi)."""
        his = self._his
        at = his.bisect_right(lo)
        if at and his.peekitem(at - 1)[1] >= lo:
            at -= 1
        while at < len(his) and his.peekitem(at)[0] <= hi:
            begin, end = his.popitem(at)
            lo, hi = min(lo, begin), max(hi, end)
        his[lo] = hi

    def cut(self, key: bytes) -> None:
        """There is something at `key` now."""
        lo, hi = self.around(key)
        if lo <= key < hi:
            del self._his[lo]
            if lo < key:
                self._his[lo] = key
            if key + b"\0" < hi:
                self._his[key + b"\0"] = hi

    def around(self, key: bytes) -> tuple[bytes, bytes]:
        """The span that has `key`, or ends with it; [key, key) if there is none."""
        at = self._his.bisect_right(key) - 1
        if at >= 0:
            lo, hi = self._his.peekitem(at)
            if key <= hi:
                return lo, hi
        return key, key
