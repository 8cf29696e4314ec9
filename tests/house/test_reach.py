"""The lines that `tools/reach.py` watches are in the source: what is gone would not be missed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "reach.py"
SPEC = importlib.util.spec_from_file_location("reach", TOOL)
assert SPEC is not None
assert SPEC.loader is not None
reach = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reach)


@pytest.mark.parametrize("name", reach.SOMETIMES)
def test_every_line_that_must_be_reached_is_there(name: str) -> None:
    file, number = reach.line_of(name)
    assert number <= len((reach.SOURCE / file).read_text().splitlines())


def test_every_package_of_the_product_has_a_floor() -> None:
    tools = {"sim", "cli", "bench", "sync"}  # the last runs in threads, which no world has
    packages = {path.name for path in reach.SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert packages - tools == set(reach.FLOORS)
