"""kill -9 of real processes: workers, stores, wormservers, PostgreSQL and MariaDB.

The example is the story of two databases and the default variant; the bank has participants that
are processes of their own too, and uses all six variants.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import databases
from examples import money_transfer
from tests.tx import bank

pytestmark = [
    pytest.mark.processes,
    pytest.mark.xdist_group("databases"),
    pytest.mark.skipif(databases.INITDB is None, reason=databases.NO_POSTGRES),
    pytest.mark.skipif(databases.MARIADBD is None, reason=databases.NO_MARIADB),
]


def test_kills_lose_no_money() -> None:
    assert money_transfer.tell(10, 7, print) > 10


def test_kills_in_every_variant_are_all_or_nothing(tmp_path: Path) -> None:
    done = bank.run(tmp_path, 18, 7)
    assert all(done.variants.values()), done.variants


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_five_hundred_kills_in_every_variant_are_all_or_nothing(tmp_path: Path, seed: int) -> None:
    done = bank.run(tmp_path, 100, seed)
    print(f"{len(done.reported)} transactions reported committed: {done.variants}")
    assert all(done.variants.values()), done.variants
