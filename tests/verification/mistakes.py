"""Mistakes that the proof must notice: a third of them in each run, all of them in `make soak`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def some_for_soak(mistakes: Sequence[tuple[str, str, str, str]]) -> list[Any]:
    """The parameters of a test, named by what each mistake does."""
    return [
        pytest.param(*one, id=one[3], marks=[pytest.mark.soak] if n % 3 else [])
        for n, one in enumerate(mistakes)
    ]
