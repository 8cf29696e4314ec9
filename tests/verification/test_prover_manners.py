"""What the prover says when code is changed: where it fails, with which values, what to do."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from verification.explaining import misfit
from verification.loops import Engine
from verification.source import CORE, Package, shipped

from verification import applications, prover, ranges, segmented_log
from verification import goals as deciding

BALLOT_AT = """    top = UNSAFE
    for r in ranges:
        if r.lo <= offset and offset < r.hi and r.ballot > top:
            top = r.ballot
    return top
"""


def said(part: ModuleType, module: str, old: str, new: str) -> str:
    """What the prover says of one part of the proof, `old` being replaced in the code."""
    core = "." not in module
    package: Package = CORE if core else applications.PACKAGE
    text = shipped(package)[module]
    assert text.count(old) >= 1, f"the source no longer says {old!r}: choose another change"
    changed = {module: text.replace(old, new)}
    lint: Callable[..., object] = prover.check_lint if core else applications.check_lint
    invariants = prover.INVARIANTS if core else applications.commit.INVARIANTS
    try:
        lint(changed)
        engine = Engine(invariants, changed, package)
        part.prove(engine)
    except Exception as error:  # noqa: BLE001 - as the command does
        return misfit(error)
    for goal in engine.goals:
        outcome = deciding.check(goal, second=False)
        if not outcome.proved:
            return outcome.explained()
    return "proved"


def test_what_ships_is_proved_without_a_word() -> None:
    assert said(ranges, "ranges", BALLOT_AT, BALLOT_AT) == "proved"


def test_a_counterexample_is_told_in_the_codes_own_names() -> None:
    text = said(ranges, "ranges", "if r.lo <= offset", "if r.lo < offset")
    assert text.startswith("refuted: loop ranges.ballot_at:0: invariant: ")
    assert "offset = " in text
    assert "r = Range(lo=" in text
    assert "ballot=b1)" in text
    assert "src/wormspace/paxos/ranges.py:47: if r.lo < offset" in text
    assert "-> no" in text
    assert "gives top = " in text


def test_of_a_changed_loop_it_is_said_where_its_invariant_is() -> None:
    text = said(ranges, "ranges", "r.ballot > top", "r.ballot < top")
    assert "verification/ranges.py:" in text
    assert "_highest_at" in text
    assert "If the loop was changed on purpose" in text


def test_the_branches_of_a_procedure_are_told() -> None:
    text = said(segmented_log, "space.space", "low = middle + 1", "low = middle + 2")
    assert text.startswith("refuted: space.Space.tail")
    assert "src/wormspace/space/space.py:" in text
    assert "while low < high:  -> yes" in text


def test_a_renamed_variable_of_a_loop_is_no_refutation() -> None:
    text = said(ranges, "ranges", "offset", "place")
    assert text.startswith("not supported: ")
    assert "speaks of a variable 'offset'" in text
    assert "place" in text
    assert "rename it in the invariant" in text
    assert "KeyError" not in text


def test_what_is_renamed_under_a_procedure_is_no_refutation() -> None:
    text = said(
        segmented_log, "space.space", 'self, metadata: bytes = b""', 'self, mark: bytes = b""'
    )
    assert text.startswith("does not run: ")
    assert "Python itself raised this" in text
    text = said(segmented_log, "space.segment", "captured.written", "captured.found")
    assert text.startswith("not supported: the code asks for .found")
    assert "there are: " in text
    assert "written" in text


@pytest.mark.parametrize(
    "instead",
    [
        "    return max((r.ballot for r in ranges), default=UNSAFE)\n",
        "    return max(ranges).ballot\n",
        "    return sorted(r.ballot for r in ranges)[-1]\n",
    ],
)
def test_an_expression_instead_of_a_loop_is_not_supported(instead: str) -> None:
    text = said(ranges, "ranges", BALLOT_AT, instead)
    assert text.startswith("not supported: src/wormspace/paxos/ranges.py:")
    assert "write it so: `for x in xs: acc = step(acc, x)`" in text
    assert "ranges.ballot_at:0 (verification/ranges.py:" in text


@pytest.mark.parametrize(
    ("instead", "why"),
    [
        ("    return sum(r.ballot for r in ranges)\n", "calls sum"),
        ("    while ranges: pass\n", "While"),
    ],
)
def test_what_the_lint_refuses_is_not_supported(instead: str, why: str) -> None:
    text = said(ranges, "ranges", BALLOT_AT, instead)
    assert text.startswith("not supported: ranges.ballot_at, line ")
    assert why in text
    assert "verification/lint.py lists what may stand" in text


def test_a_loop_of_another_form_is_not_supported() -> None:
    text = said(ranges, "ranges", "            top = r.ballot\n", "            break\n")
    assert text.startswith("not supported: ranges.ballot_at:0: break")


def test_a_function_that_is_gone_is_told_with_the_line_that_names_it() -> None:
    text = said(ranges, "ranges", "def within(", "def inside_of(")
    assert "within" in text
    assert not text.startswith("refuted")
