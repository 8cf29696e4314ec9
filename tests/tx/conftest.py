"""Tests of transactions run twice: as shipped, and with every size of theirs at its least.

With vote segments of two registers, of which one is kept captured, and one vote space listened to,
every test crosses what a deployment crosses in its third year.
"""

from __future__ import annotations

import pytest
from tests.tx.databases import (  # noqa: F401 - fixtures
    accounts,
    mariadb,
    mariadb_server,
    postgres,
    postgres_server,
)

from wormspace.knobs import least, turned

AGED = ("test_tx_votes", "test_tx_cancelling", "test_tx_foreign")
"""Modules of which all tests hold at any age; those that measure or count stay as shipped."""


def pytest_generate_tests(metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in AGED:
        metafunc.fixturenames.append("age")
        metafunc.parametrize("age", ["new", "aged"], indirect=True)


@pytest.fixture
def age(request):
    """The sizes that are in force."""
    sizes = {name: size for name, size in least().items() if name.startswith("tx_")}
    with turned(**(sizes if request.param == "aged" else {})):
        yield request.param
