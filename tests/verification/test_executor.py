"""The symbolic executor follows what it can, and refuses what it cannot."""

from __future__ import annotations

import random
from typing import Any

import pytest
import z3
from verification.loops import Engine
from verification.source import MODULES, NotAFold, load, shipped
from verification.symex import SymBallot, SymInt, SymValue, Unsupported, explore

from verification import lint, prover
from verification import theory as th
from wormspace.paxos import accept, acceptor, messages, prepare, quorum, ranges


def number(name: str) -> SymInt:
    return SymInt(z3.Int(name))


def test_every_comparison_forks_and_contradictions_are_left_out() -> None:
    x, y = number("x"), number("y")

    def order(a: SymInt, b: SymInt) -> str:
        if a < b:
            return "below" if a < b else "impossible"
        return "equal" if a == b else "above"

    assert sorted(p.result for p in explore(order, x, y)) == ["above", "below", "equal"]


@pytest.mark.parametrize(
    "use",
    [
        lambda x: {x: 1},
        lambda x: f"{x}",
        lambda x: [0][x],
        lambda x: list(range(x)),
        lambda x: 1 if x else 0,
        lambda x: x == "five",
        lambda x: x * 2,
        lambda x: hash(x),
        lambda x: x << 1,
    ],
)
def test_what_a_symbolic_value_cannot_follow_is_refused(use: Any) -> None:
    try:
        paths = explore(use, number("x"))
    except Unsupported:
        return
    assert all(isinstance(path.error, TypeError) for path in paths)


def test_a_ballot_that_proofs_do_not_know_is_refused() -> None:
    ballot = SymBallot(z3.Const("b", th.Ballot))
    with pytest.raises(Unsupported):
        explore(lambda b: b > b"\x01" * 16, ballot)
    with pytest.raises(Unsupported):
        explore(lambda v: v == b"value", SymValue(z3.Const("v", th.Value)))


def faults(body: str, extra: str = "") -> list[str]:
    text = f"{extra}\ndef on_test(x, y):\n    {body}\n"
    return lint.closure({"acceptor": text}, ["acceptor.on_test"])[1]


@pytest.mark.parametrize(
    "body",
    [
        "return x is y",
        "return isinstance(x, int)",
        "return type(x)",
        "return getattr(x, 'lo')",
        "return x in (y,)",
        "return {x, y}",
        "return hash(x)",
        "return f'{x}'",
        "return len(x)",
        "return helper(x)",
        "return x.encode()",
        "return (lambda: x)()",
        "while x < y: pass",
        "assert x",
        "with x: pass",
    ],
)
def test_the_lint_refuses(body: str) -> None:
    assert faults(body)


def test_the_lint_follows_calls() -> None:
    assert not faults("return helper(x)", "def helper(x):\n    return x")
    assert faults("return helper(x)", "def helper(x):\n    try:\n        return x\n    except E: 0")
    assert faults("return Odd(x)", "class Odd(msgspec.Struct):\n    def __post_init__(self): 0")


def test_the_lint_passes_what_ships_and_reaches_the_steps() -> None:
    closure = prover.check_lint()
    assert {"ranges.cut_step", "ranges.absorb_step", "prepare._rejected"} <= closure


def test_a_loop_without_an_established_invariant_is_refused() -> None:
    from verification.ranges import INVARIANTS, Ranges

    with pytest.raises(Unsupported, match="before it is established"):
        Engine(INVARIANTS).paths("ranges.ballot_at", Ranges.any(), number("x"))
    with pytest.raises(Unsupported, match="no invariant"):
        Engine({}).paths("ranges.ballot_at", Ranges.any(), number("x"))


def test_a_loop_that_is_not_a_fold_is_refused() -> None:
    text = shipped()["ranges"].replace("            top = r.ballot\n", "            break\n")
    with pytest.raises(NotAFold):
        Engine({}, {"ranges": text})


def test_the_rewritten_core_computes_what_the_shipped_one_does() -> None:
    core = load(Engine({}).loop)
    assert set(core.modules) == set(MODULES)
    rng = random.Random(4)

    def some_ballot() -> bytes:
        return bytes(15) + bytes([rng.randrange(4)])

    def some_ranges(kind: Any) -> tuple[Any, ...]:
        los = [rng.randrange(8) for _ in range(rng.randrange(5))]
        seed = [(lo, lo + rng.randrange(1, 5), some_ballot()) for lo in los]
        return tuple(kind(*r) for r in seed)

    for _ in range(500):
        state = rng.getstate()
        results = []
        for rs, acc, cap, wri, msg in (
            (ranges, acceptor, prepare, accept, messages),
            (core.ranges, core.acceptor, core.prepare, core.accept, core.messages),
        ):
            rng.setstate(state)
            held = some_ranges(rs.Range)
            lo = rng.randrange(8)
            row = msg.Row(lo, some_ballot(), bytes([rng.randrange(2)]))
            rows = [msg.Row(i, some_ballot(), b"v", rng.random() < 0.3) for i in range(3)]
            tallies = (wri.Tally(1, 1, some_ballot()), wri.Tally(2, 4, some_ballot()))
            got = (
                acc.on_capture(held, lo, lo + 2, some_ballot()),
                acc.on_write(held, row, lo, some_ballot(), b"\x01"),
                acc.is_decided(held, lo, some_ballot()),
                rs.overlay(held, rs.Range(lo, lo + 3, some_ballot())),
                cap.merge(tuple(rows[:2]), [rows[2]]),
                wri.refuse_step(tallies, rng.randrange(4), 8, some_ballot()),
            )
            results.append(repr(got))
        assert results[0] == results[1]


def test_quorums_agree_with_a_naive_count() -> None:
    for servers in range(1, 8):
        masks = range(1 << servers)
        quorums = [m for m in masks if quorum.is_quorum(m, servers)]
        assert quorums == [m for m in masks if 2 * bin(m).count("1") > servers]
        assert all(a & b for a in quorums for b in quorums)
        for lost in masks:
            left = any(q & lost == 0 for q in quorums)
            assert quorum.out_of_reach(lost, servers) == (not left)
