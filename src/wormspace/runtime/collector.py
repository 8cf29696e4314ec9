"""Python's collector of cyclic garbage, in processes whose main work is this."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from typing import Any

_THRESHOLDS = (20_000, 50, 100)


def collect_seldom() -> None:
    """Look for cyclic garbage less often in this process, and not among what is there already.

    Many operations in flight are many small objects, and next to no cycles: by default Python looks
    at the young ones several times per turn of the event loop, and at all of them, rows and
    imported modules included, so often that callers notice (docs/performance.md).  It concerns the
    whole process, so the library does not do it by itself: servers do, and programs may.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


def untrack(container: Any) -> None:
    """Spare the collector a container that can be no part of a cycle.

    Python does so itself with a `dict` of immutable values, but not with a subclass of it: its
    collector would look at each of a million values at every pass, for 45 ms.  It concerns this one
    object, and is for whoever knows that nothing in it leads back to it; where Python finds that
    such a dictionary got a value that might, it tracks it again.
    """
    _find_untrack()(container)


@cache
def _find_untrack() -> Callable[[Any], None]:
    import ctypes  # takes 20 ms, and most programs do not need it

    untrack = ctypes.pythonapi.PyObject_GC_UnTrack
    untrack.argtypes, untrack.restype = [ctypes.py_object], None
    return untrack
