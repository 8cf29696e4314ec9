from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.command import Command, in_file


@pytest.fixture
def worm(tmp_path: Path) -> Command:
    """The command over a fresh embedded address space."""
    return in_file(tmp_path)


@pytest.fixture
def segment(worm: Command) -> str:
    """A segment of eight registers."""
    return worm.ok("alloc", "orders", "what it is for", "--size", "8").strip()
