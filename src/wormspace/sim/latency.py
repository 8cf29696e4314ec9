"""How long something takes, drawn anew each time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Latency = Callable[[Random], float]
"""Draws how long one message travels, or a commit takes, in seconds."""


def constant(seconds: float) -> Latency:
    """Every message travels this long."""
    return lambda random: seconds


def uniform(low_s: float, high_s: float) -> Latency:
    """Anything between the two is equally likely."""
    span = high_s - low_s
    return lambda random: low_s + span * random.random()


def skewed(base_s: float, mean_extra_s: float) -> Latency:
    """A base plus an exponentially distributed extra: mostly quick, at times very slow."""
    rate = 1.0 / mean_extra_s
    return lambda random: base_s + random.expovariate(rate)
