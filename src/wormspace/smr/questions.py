"""Queries as they travel: how a replica is asked, and how it answers from its state."""

from __future__ import annotations

from wormspace.errors import UsageError
from wormspace.smr.calls import Malformed, encode_outcome
from wormspace.smr.engine import Engine
from wormspace.smr.records import Question
from wormspace.space import Address

LINEARIZABLE, HERE = "linearizable", "here"


def question(queries: bytes, seen: Address, level: str = LINEARIZABLE) -> Question:
    """Queries as they are sent."""
    return Question(queries, level, seen)


def run_queries(engine: Engine, raw: bytes) -> bytes:
    """Run encoded queries; their outcome, encoded.

    Raises:
        UsageError: they are malformed.
    """
    machine = engine.machine
    try:
        values, faults = machine.declaration.queries.run(machine, raw)
    except Malformed as e:
        raise UsageError(f"{type(machine).__name__}: a malformed question: {e}") from e
    return encode_outcome(values, faults)
