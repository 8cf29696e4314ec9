"""Resource managers by URL."""

from __future__ import annotations

import sys

import pytest

from wormspace.errors import UsageError
from wormspace.tx import RemoteStore
from wormspace.tx.mariadb import MariaDb
from wormspace.tx.opening import open_manager
from wormspace.tx.postgres import Postgres


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://h/d", Postgres),
        ("postgres://h/d", Postgres),
        ("mysql://u@h/d", MariaDb),
        ("mariadb://u@h/d", MariaDb),
        ("kv://h:1", RemoteStore),
    ],
)
async def test_a_url_says_what_kind_of_manager_it_is(url: str, kind: type) -> None:
    manager = open_manager("a", url)
    assert (type(manager), manager.name) == (kind, "a")
    if isinstance(manager, RemoteStore):
        assert manager.address == "h:1"
    await manager.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (7, "URL is text, not int"),
        ("", "'': a resource manager is"),
        ("http://h", "'http': a resource manager is"),
        ("x" * 30, f"'{'x' * 20}': a resource manager is"),
        ("kv:h:1", "'kv': a resource manager is"),
        ("kv://h", "'h' is not HOST:PORT"),
    ],
)
def test_what_is_no_url_of_a_manager_is_refused(url, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_manager("a", url)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("postgresql://h/d", "postgres", "postgres"),
        ("postgres://h/d", "postgres", "postgres"),
        ("mysql://u@h/d", "mariadb", "mysql"),
        ("mariadb://u@h/d", "mariadb", "mysql"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(url, module, extra: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, f"wormspace.tx.{module}", None)
    with pytest.raises(UsageError, match=rf"install wormspace\[{extra}\]"):
        open_manager("a", url)
