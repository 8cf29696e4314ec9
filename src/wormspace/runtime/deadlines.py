"""One deadline per call, on the running loop's clock, passed on to all that the call does."""

from __future__ import annotations

import asyncio

LEAST_S = 0.001
"""What a call gets whose deadline has passed: it fails in the words of whoever is waited for."""


def within(timeout: float) -> float:
    """The deadline `timeout` seconds from now."""
    return asyncio.get_running_loop().time() + timeout


def left(deadline: float) -> float:
    """The seconds until a deadline; a little, if it has passed."""
    return max(LEAST_S, deadline - asyncio.get_running_loop().time())
