"""Everything that is proved, in order."""

from __future__ import annotations

from collections.abc import Mapping

from verification import (
    acceptor,
    applications,
    asking,
    captures,
    lint,
    promoting,
    proposer,
    protocol,
    ranges,
    register,
    tallies,
)
from verification.goals import Goal
from verification.loops import Engine
from verification.source import shipped

ROOTS = (
    *("acceptor.on_capture", "acceptor.on_write", "acceptor.on_decided", "acceptor.is_decided"),
    "acceptor.on_trim",
    *("ranges.ballot_at", "ranges.highest", "ranges.overlay", "ranges.covers", "ranges.within"),
    *("quorum.majority", "quorum.is_quorum", "quorum.out_of_reach"),
    *("accept.verdict", "accept.on_written", "accept.finished", "accept.lost"),
    *("accept.refuse_step", "accept.obstacle", "accept.contested", "accept.begin"),
    *("prepare.better", "prepare.clash", "prepare.merge", "prepare.undecided"),
    *("prepare.on_promise", "prepare.on_report", "prepare.on_reject", "prepare.begin"),
    *("reading.count_step", "reading.is_known", "reading._merge"),
    *("reading.on_report", "reading.begin", "reading.widen"),
    *("broadcast.begin", "broadcast.on_done", "broadcast.finished"),
)
"""The functions of the core that are executed symbolically."""

BOUNDED = ("reading.without",)
"""Those that are executed for a few elements only: with a `while`, and `len`."""

INVARIANTS = {**ranges.INVARIANTS, **tallies.INVARIANTS, **proposer.INVARIANTS}


def check_lint(changed: Mapping[str, str] | None = None) -> set[str]:
    """The functions that are proved or called by those; raises if one may not be."""
    sources = shipped() | dict(changed or {})
    closure, faults = lint.closure(sources, ROOTS, apart=BOUNDED)
    faults += lint.procedures(sources, BOUNDED)
    if faults:
        raise lint.LintError("\n".join(faults))
    return closure | set(BOUNDED)


def layer1(changed: Mapping[str, str] | None = None) -> Engine:
    """The shipped functions against their local specifications."""
    check_lint(changed)
    engine = Engine(INVARIANTS, changed)
    ranges.prove(engine)
    acceptor.prove(engine)
    tallies.prove(engine)
    proposer.prove(engine)
    captures.prove(engine)
    asking.prove(engine)
    return engine


def layers(
    changed: Mapping[str, str] | None = None, spec: str | None = None
) -> dict[str, list[Goal]]:
    """All goals, by layer."""
    engine = layer1(changed)
    local = list(engine.goals)
    return {
        "1 the shipped functions": local,
        "2 the protocol": [*protocol.goals(engine), *promoting.goals()],
        "3 the register's specification": register.goals(engine, spec),
        "4 above the register": applications.goals(changed, spec),
    }
