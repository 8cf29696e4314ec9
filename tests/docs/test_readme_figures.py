"""Each figure of README stands in docs/performance.md, where it is told how it was measured."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIGURE = re.compile(
    r"(?<![\w.,-])\d{1,3}(?:,\d{3})+(?![\w,])|(?<![\w.,-])\d+(?:\.\d+)?(?![\w.]*\w)"
)
PERFORMANCE = "\n## Performance\n"
SHARES = ("a quarter to a half more CPU",)
"""Metrics of README in words; each stands in docs/performance.md word for word."""


def metrics(text: str) -> list[str]:
    return FIGURE.findall(text)


def number(figure: str) -> Decimal:
    return Decimal(figure.replace(",", ""))


def rounds_to(measured: str, told: str) -> bool:
    """Whether `told` is `measured`, rounded as far as its last digit that is not 0."""
    wanted = number(told)
    digits = wanted.normalize().as_tuple()
    assert isinstance(digits.exponent, int)
    return abs(number(measured) - wanted) <= Decimal(10) ** digits.exponent / 2


def told() -> list[str]:
    """Of README: all figures of its section on performance, and those with thousands elsewhere."""
    text = (ROOT / "README.md").read_text()
    section = text.partition(PERFORMANCE)[2].partition("\n## ")[0]
    assert section
    return [*metrics(section), *(f for f in metrics(text.replace(section, "")) if "," in f)]


def measured() -> list[str]:
    return metrics((ROOT / "docs" / "performance.md").read_text())


@pytest.mark.parametrize("figure", told())
def test_the_figure_was_measured(figure: str) -> None:
    exact = number(figure) < 10_000 and "." not in figure  # such as a window
    there = measured()
    assert figure in there if exact else any(rounds_to(m, figure) for m in there)


@pytest.mark.parametrize("words", SHARES)
def test_a_share_in_words_is_the_same_on_both_pages(words: str) -> None:
    for page in ("README.md", "docs/performance.md"):
        assert words in " ".join((ROOT / page).read_text().split())
