"""What an operation costs as its input grows, counted and not timed.

`count` runs a function and counts the lines of Python that it executes (each turn of a loop or a
comprehension anew), which is the same on every machine and in every run.  `assert_growth` does so
at several sizes and compares the growth with what is declared.  A call into C counts as one line
however long it takes.

    def capture_and_write(n):
        store = filled(n)                  # not counted
        return lambda: write_all(store, n)  # counted

    assert_growth(capture_and_write, [100, 200, 400], at_most=1.0)
"""

from __future__ import annotations

import gc
import math
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

SLACK = 0.15
"""An exponent is measured a little too high where fixed costs are paid in steps."""


def count(work: Callable[[], Any]) -> int:
    """The lines that `work` executes in this thread, generators and coroutines among them."""
    lines = 0

    def on_event(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
        return on_event

    collects, before = gc.isenabled(), sys.gettrace()
    gc.disable()  # what dies at some moment must not run its finalizers in here
    sys.settrace(on_event)
    try:
        work()
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return lines


def growth(prepare: Callable[[int], Callable[[], Any]], sizes: Sequence[int]) -> list[float]:
    """The exponent of the cost between each size and the next: 0 is constant, 1 is linear."""
    assert threading.current_thread() is threading.main_thread(), "lines are counted by thread"
    costs = [count(prepare(n)) for n in sizes]
    steps = zip(sizes, costs, sizes[1:], costs[1:], strict=False)
    return [math.log(max(d, 1) / max(b, 1)) / math.log(c / a) for a, b, c, d in steps]


def assert_growth(
    prepare: Callable[[int], Callable[[], Any]],
    sizes: Sequence[int],
    *,
    at_most: float,
) -> None:
    """Fail if what `prepare(n)` returns costs more than n ** `at_most`, within `SLACK`.

    Give at least three sizes: n, 2n, 4n.  A cost that grows with the logarithm is at_most=0.3.
    """
    found = growth(prepare, sizes)
    assert max(found) <= at_most + SLACK, (
        f"the cost grows as n to the {max(found):.2f} (at sizes {list(sizes)}: "
        f"{', '.join(f'{e:.2f}' for e in found)}), declared is {at_most}"
    )
