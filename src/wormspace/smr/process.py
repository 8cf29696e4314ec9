"""For processes whose main work is to be a replica."""

from __future__ import annotations

import gc

_THRESHOLDS = (20_000, 50, 100)


def collect_seldom() -> None:
    """Let Python look for cyclic garbage less often.

    A replica makes many small objects per command and next to no cycles, but each full look goes
    over all rows that are held: with millions of them, a pause that callers notice.  It concerns
    the whole process, so the library does not do it by itself.
    """
    gc.set_threshold(*_THRESHOLDS)
