"""The six ways to run a commit; what they differ in is who tells whom, never what is decided.

Message delays from the moment the commit begins to the decision at every resource manager, as in
Gray and Lamport's progression of Paxos Commit (8, 6, 5, 4; TODS 2006) and the two that WormTX adds
to it (3, 2; SoCC 2019).  The initiator is the process that runs the transaction; a transaction
manager (TM) is any site that is asked to drive one, and keeps no state of its own.
"""

from __future__ import annotations

import msgspec

from wormspace.errors import UsageError

TOLD, LISTENS = "told", "listens"


class Variant(msgspec.Struct, frozen=True):
    """How one variant runs.

    Attributes:
        delays: message delays to the decision at every resource manager.
        ahead: vote registers are captured ahead, segment by segment; otherwise one by one.
        tm: how the TM learns the votes, TOLD or LISTENS; "" if it only starts the commit.
        driven: whether a TM asks the resource managers; otherwise the initiator does.
        listening: whether resource managers listen to each other's votes; otherwise the TM
            tells them the decision.
        spontaneous: resource managers vote, unasked, as soon as their last operation is done.
        path: the critical path, for people.
    """

    name: str
    delays: int
    ahead: bool
    driven: bool
    tm: str
    listening: bool
    spontaneous: bool
    path: str


VARIANTS = {
    v.name: v
    for v in (
        Variant(
            "A8", 8, False, True, TOLD, False, False,
            "start TM, ask RMs, capture (2), write (2), tell TM, tell RMs",
        ),
        Variant(
            "B6", 6, True, True, TOLD, False, False,
            "start TM, ask RMs, write (2), tell TM, tell RMs",
        ),
        Variant(
            "C5", 5, True, True, LISTENS, False, False,
            "start TM, ask RMs, write, TM hears it, tell RMs",
        ),
        Variant(
            "D4", 4, True, True, "", True, False,
            "start TM, ask RMs, write, RMs hear it",
        ),
        Variant(
            "E3", 3, True, False, "", True, False,
            "ask RMs, write, RMs hear it",
        ),
        Variant(
            "F2", 2, True, False, "", True, True,
            "write, RMs hear it",
        ),
    )
}  # fmt: skip
"""By name."""

DEFAULT = "E3"


def find(name: str) -> Variant:
    """The variant of that name.

    Raises:
        UsageError: there is none.
    """
    variant = VARIANTS.get(name) if isinstance(name, str) else None
    if variant is None:
        raise UsageError(f"a variant is one of {', '.join(VARIANTS)}, not {name!r}")
    return variant
