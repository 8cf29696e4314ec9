"""kill -9 of real workers, wormservers, PostgreSQL and MariaDB: see examples/money_transfer.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from wormspace.bench import databases

pytestmark = [
    pytest.mark.processes,
    pytest.mark.xdist_group("databases"),
    pytest.mark.skipif(databases.INITDB is None, reason=databases.NO_POSTGRES),
    pytest.mark.skipif(databases.MARIADBD is None, reason=databases.NO_MARIADB),
]


def story():
    """The example, as a module."""
    path = Path(__file__).parents[2] / "examples" / "money_transfer.py"
    spec = importlib.util.spec_from_file_location("money_transfer", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["money_transfer"] = module
    spec.loader.exec_module(module)
    return module


def test_dozens_of_kills_lose_no_money() -> None:
    assert story().tell(30, 7, print) > 30


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_five_hundred_kills_lose_no_money(seed: int) -> None:
    assert story().tell(100, seed, print) > 100
