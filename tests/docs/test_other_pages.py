"""docs/operations.md and docs/concepts.md name all metrics, limits and errors there are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from wormspace import errors
from wormspace.cli.app import SECTIONS
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.listener import Server
from wormspace.server.storage import AcceptorStore

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OPERATIONS = (DOCS / "operations.md").read_text()
CONCEPTS = (DOCS / "concepts.md").read_text()


async def test_every_metric_is_on_the_page_and_none_that_is_not_told(tmp_path):
    server = Server(ServerIdentity("cluster", "s1"), AcceptorStore(tmp_path / "s1"), Limits())
    told = set(server.node.metrics())
    await server.stop()
    table = OPERATIONS.partition("| metric | |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == told


def test_the_cluster_file_on_the_page_has_the_limits_and_their_defaults():
    [example] = re.findall(r"```toml\n(.*?)```", OPERATIONS, flags=re.DOTALL)
    limits = tomllib.loads(example)["limits"]
    assert limits == {name: getattr(Limits(), name) for name in Limits.__struct_fields__}


@pytest.mark.parametrize(
    "error",
    [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.WormError)],
    ids=lambda error: error.__name__,
)
def test_every_error_is_in_the_table(error):
    table = CONCEPTS.partition("| error | family |")[2].partition("\n\n")[0]
    assert error is errors.WormError or f"`{error.__name__}`" in table


def test_every_command_is_shown_by_help_and_is_on_a_page():
    commands = [name for names in SECTIONS.values() for name in names]
    pages = "\n".join(page.read_text() for page in [ROOT / "README.md", *DOCS.glob("*.md")])
    unsaid = [name for name in commands if not re.search(rf"wormspace {name}\b", pages)]
    assert not unsaid
