"""The page says truly how much of the code is executed by the proof."""

from __future__ import annotations

import re
from pathlib import Path

from verification import shares

PAGE = Path(__file__).resolve().parents[2] / "docs" / "verification-table.md"
POINTS = 2
"""The page may be so many points of a percentage behind: every change of the code moves it."""


def test_the_pages_shares_are_those_of_the_code() -> None:
    rows = re.findall(
        r"^\| (\S+|\(top level\)) \| [\d,]+ \| [\d,]+ \| (\d+) % \|$", PAGE.read_text(), re.M
    )
    said = {package: int(share) for package, share in rows}
    found = {package: 100 * a / b for package, (a, b) in shares.shares().items()}
    assert said.keys() == found.keys(), "run make prove: packages came or went"
    for package, share in found.items():
        assert abs(said[package] - share) < POINTS, f"run make prove: {package} is {share:.1f} %"


def test_the_page_says_how_much_is_trusted() -> None:
    [said] = re.findall(r"executes them, and is trusted, has ([\d,]+) lines", PAGE.read_text())
    assert int(said.replace(",", "")) == shares.executor(), "run make prove"


def test_every_function_that_the_proof_names_ships() -> None:
    assert shares.proved() <= shares.bodies().keys()
