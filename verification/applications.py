"""Layer 4: everything above the register, from its specification."""

from __future__ import annotations

from collections.abc import Mapping

from verification import (
    acknowledging,
    commit,
    finding,
    issuing,
    leading,
    lint,
    numbering,
    obeying,
    ordering,
    positions,
    replicas,
    segmented_log,
    sending,
    term,
    voting,
)
from verification.goals import Goal
from verification.loops import Engine
from verification.source import WORMSPACE, Package, shipped
from verification.system import System, contract

PACKAGE = Package(
    "wormspace",
    WORMSPACE,
    (
        *(
            "registers.spans",
            "registers.token",
            "registers.paxos.issued",
            "registers.paxos.operations",
        ),
        "registers.paxos.memory",
        "registers.paxos.client",
        *("space.segment", "space.space", "writer.settling"),
        *("log.segmented_log", "log.term", "log.reading", "log.sequencer"),
        "log.appending",
        *("smr.sessions", "smr.engine", "smr.term", "smr.leaderless"),
        *(
            "tx.variants",
            "tx.deciding",
            "tx.vote_store",
            "tx.resolver",
            "tx.in_flight",
            "tx.participant",
        ),
    ),
    frozenset({"tx.deciding.outcome", "tx.deciding.judge"}),
)
"""The modules that are executed, each after those of them that it imports."""

FUNCTIONS = ("tx.deciding.judge", "tx.deciding.outcome")
"""Pure functions, executed whole; what they call is looked at by the lint, too."""

PROCEDURES = (
    *(f"registers.paxos.issued.Issued.{name}" for name in ("issue", "give_up", "decide")),
    *(f"registers.paxos.memory.{name}" for name in ("_Forgotten.add", "_Forgotten.has")),
    *(f"registers.paxos.memory.{name}" for name in ("_Past.add", "_Past.has", "Memory.open")),
    *(
        "registers.paxos.memory.Memory._forget_one",
        "registers.paxos.memory.BallotWrites.is_under_way",
    ),
    *(
        f"registers.paxos.client.PaxosRegisters.{name}"
        for name in ("write", "_issue", "_compare_first", "capture", "_complete", "_write_rows")
    ),
    *(f"registers.paxos.client.PaxosRegisters.{name}" for name in ("_next_ballot", "on_refused")),
    *(f"registers.paxos.client.PaxosRegisters.{name}" for name in ("_conclude", "_help")),
    *(
        f"registers.paxos.operations.WriteOperation.{name}"
        for name in (
            "add",
            "begin",
            "unanswered",
            "on_reply",
            "give_up",
            "_decide",
            "_lose",
            "_fail",
        )
    ),
    *("registers.token.Token.is_free", "registers.token.Token.free", "registers.spans.as_spans"),
    *("space.space.Space.alloc", "space.space.Space._try_alloc"),
    *("space.space.Space.tail", "space.space.Space._find_tail", "space.space._gallop"),
    *("space.space._climb", "space.space._narrow"),
    *("space.segment.Segment.settle", "writer.settling.settle_range"),
    *(f"log.segmented_log.SegmentedLog.{name}" for name in ("fill", "settle")),
    *(f"log.term.Term.{name}" for name in ("take", "_take_over", "_make_next", "_close")),
    "log.term._Unreserved.reserved",
    *(f"log.sequencer.Sequencer.{name}" for name in ("give", "give_now", "_number", "_take")),
    *(f"log.sequencer.Sequencer.{name}" for name in ("_lose", "_acquire", "_go_on_at")),
    *(
        f"log.reading.Reader.{name}"
        for name in ("last_batch", "_search", "_bounds", "_seek", "read", "_beyond_gaps")
    ),
    *("log.reading.ReadCursor.take", "log.reading._Seen.add", "log.reading._Seen.last_upto"),
    *(
        f"log.appending.Appender.{name}"
        for name in ("_insist", "_ask", "_write_all", "_write_reserved")
    ),
    *(
        "log.appending._AppendRequest.placed",
        "log.appending._BatchDraft.placed",
        "log.appending._BatchDraft.add",
    ),
    *(f"smr.sessions.Sessions.{name}" for name in ("find", "refusal", "keep")),
    *(f"smr.engine.Engine.{name}" for name in ("apply", "_move", "_apply_packet")),
    *("smr.term.complete", "smr.term.close", "smr.term.Term._insist"),
    "smr.leaderless.LeaderlessProposer._attempt",
    *(
        f"tx.vote_store.VoteStore.{name}"
        for name in ("cast", "_put", "_cast_alone", "_send", "_write", "refuse")
    ),
    *(
        f"tx.participant.Participant.{name}"
        for name in ("prepare", "_on_prepared", "_promise", "_on_stands")
    ),
    *(f"tx.participant.Participant.{name}" for name in ("act", "_on_acted", "_do")),
    "tx.in_flight.InFlight.learn",
    *("tx.resolver.Resolver.settle", "tx.resolver.Resolver.refuse"),
)
"""What is executed between its calls of registers."""

PARTS = (
    *(
        issuing,
        sending,
        ordering,
        segmented_log,
        term,
        numbering,
        finding,
        acknowledging,
        replicas,
        leading,
    ),
    *(commit, voting, obeying),
)


def check_lint(changed: Mapping[str, str] | None = None) -> set[str]:
    """The pure functions and what they call; raises if any of this may not be executed."""
    sources = shipped(PACKAGE) | dict(changed or {})
    closure, faults = lint.closure(sources, FUNCTIONS, PACKAGE.name)
    faults += lint.procedures(sources, PROCEDURES)
    if faults:
        raise lint.LintError("\n".join(faults))
    return closure


def engine(changed: Mapping[str, str] | None = None) -> Engine:
    """What executes them."""
    check_lint(changed)
    return Engine(commit.INVARIANTS, changed, PACKAGE)


def systems(e: Engine) -> list[System]:
    """The models."""
    return [
        *segmented_log.systems(),
        positions.positions(),
        *replicas.systems(),
        *commit.systems(e),
    ]


def goals(changed: Mapping[str, str] | None = None, spec: str | None = None) -> list[Goal]:
    """Layer 4: the specification, the code, and the models."""
    e = engine(changed)
    for part in PARTS:
        part.prove(e)
    return [
        *contract(spec),
        *e.goals,
        *numbering.links(e),
        *commit.links(e),
        *[g for s in systems(e) for g in s.goals()],
    ]
