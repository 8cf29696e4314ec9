"""Python's collector of cyclic garbage, in processes whose main work is this."""

from __future__ import annotations

import gc

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
