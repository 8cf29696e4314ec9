"""The claims that every run must meet, checked on its records.

Registers are checked one by one against the sequential specification (`registers.spec`): a run is
right if some order of its calls, compatible with real time, is a run of the specification.  That
covers immutability, agreement, "an acknowledged write is never lost" and the linearizability of
reads and of "empty".  What the specification does not speak of (segments, trim, listeners) has
checks of its own.  Each check raises `Violation` with the claim and the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from wormspace.registers import spec
from wormspace.sim.linearizability import UNKNOWN, Operation, Outcome, check
from wormspace.sim.records import Feed, Records, Register, Violation
from wormspace.space.address import Address
from wormspace.space.events import Allocated, SegmentsTrimmed, Written

WRITES = ("write", "settle")
"""The calls whose last argument may end up in the register."""


class SpecifiedRegister:
    """One register as `registers.spec` defines it, for the linearizability checker.

    Inputs and outputs: ("write", fence, value) -> "ok" or ("lost", the value it holds);
    ("settle", otherwise) -> the value; ("capture", fence) and ("read",) -> the value, or None
    while it is empty.

    A write of unknown outcome may take effect as long as the register is empty, whoever captured
    it meanwhile: a later captor may meet it at a server that nobody else had asked.
    """

    def initial(self) -> spec.Cell:
        """An empty register that nobody holds."""
        return spec.Cell()

    def step(self, cell: spec.Cell, asked: Any, output: Any) -> tuple[bool, spec.Cell]:
        """See `linearizability.Model`."""
        kind = asked[0]
        if kind == "write":
            after, outcome = spec.write(cell, asked[1], asked[2])
            if output is UNKNOWN:
                return True, after
            if output == "ok":
                # A replay of what is written succeeds even after the capture was stolen.
                return outcome == spec.WRITTEN or spec.read(cell) == (True, asked[2]), after
            return cell.written and output == ("lost", cell.value), cell
        if kind == "settle":
            cell, _ = spec.write(cell, cell.holder, asked[1])
            return output is UNKNOWN or output == cell.value, cell
        written, value = spec.read(cell)
        return output == (value if written else None), cell

    def partition(self, history: Sequence[Operation]) -> list[Sequence[Operation]]:
        """One register is one part."""
        return [history]


def check_records(records: Records) -> None:
    """Check everything.

    Raises:
        Violation: a claim does not hold.
    """
    for where in records.registers():
        check_register(records, where)
    values = values_of(records)
    check_trimmed(records)
    check_allocations(records)
    check_standing(records)
    check_listings(records)
    for feed in records.feeds:
        check_feed(feed, values, records)


def show(where: Register) -> str:
    """A register, for people."""
    return "/".join(map(str, where))


def evidence(records: Records, where: Register) -> str:
    """The history of a register, one call a line."""
    return "\n".join(f"  {one}" for one in records.history(where))


def check_register(records: Records, where: Register) -> None:
    """One register against the specification.

    Raises:
        Violation: no order of its calls is a run of the specification.
    """
    history = records.history(where)
    tried = {one.input[-1] for one in history if one.input[0] in WRITES}
    for one in history:
        for value in _observed(one):
            if value not in tried:
                raise Violation(
                    f"validity: {show(where)} returned {value!r}, which nobody wrote",
                    evidence(records, where),
                )
    verdict = check(SpecifiedRegister(), history)
    if verdict.outcome is not Outcome.OK:
        raise Violation(
            f"register {show(where)} is {verdict.outcome.value} as a write-once register",
            f"{verdict.explanation}\nits history:\n{evidence(records, where)}",
        )


def _observed(one: Operation) -> list[bytes]:
    """The values that a call showed to its client."""
    if one.output is UNKNOWN or one.output is None:
        return []
    if one.input[0] == "write":
        return [one.input[2] if one.output == "ok" else one.output[1]]
    return [one.output]


def values_of(records: Records) -> dict[Register, bytes]:
    """The value of every register that somebody knows to be decided.

    Raises:
        Violation: somebody was shown another one.
    """
    values: dict[Register, bytes] = {}
    for where in records.registers():
        for one in records.history(where):
            for value in _observed(one):
                if values.setdefault(where, value) != value:
                    raise Violation(
                        f"immutability: {show(where)} was {values[where]!r} and {value!r}",
                        evidence(records, where),
                    )
    return values


def check_trimmed(records: Records) -> None:
    """After a trim returned, a register is `Trimmed` or its true value, never empty or free.

    Raises:
        Violation: somebody was told that it is empty, or wrote it, after that.
    """
    ended: dict[tuple[str, int], int] = {}
    for trimming in records.trimmings:
        if trimming.returned is not None:
            for number in range(trimming.first, trimming.stop):
                at = (trimming.space, number)
                ended[at] = min(ended.get(at, trimming.returned), trimming.returned)
    for where in records.registers():
        end = ended.get(where[:2])
        if end is None:
            continue
        history = records.history(where)
        before = {one.input[-1] for one in history if one.called < end and one.input[0] in WRITES}
        for one in history:
            if one.called < end or one.output is UNKNOWN:
                continue
            if one.output is None or (one.output == "ok" and one.input[2] not in before):
                raise Violation(
                    f"a trimmed segment came back: {show(where)} was used after its trim",
                    f"the trim ended at {end}; {one}\n{evidence(records, where)}",
                )


def check_allocations(records: Records) -> None:
    """One winner per number, numbers without gaps, and nobody is told otherwise.

    Raises:
        Violation: two allocators won one number, or an allocated segment was denied.
    """
    for space, calls in sorted(records.allocations.items()):
        winners: dict[int, bytes] = {}
        for call in calls:
            if call.number is None:
                continue
            other = winners.setdefault(call.number, call.payload)
            if other != call.payload:
                raise Violation(
                    f"allocation: segment {space}/{call.number} has two winners",
                    f"{other!r} and {call.payload!r}",
                )
        for name, number, payload in records.payloads:
            if name == space and winners.get(number, payload) != payload:
                raise Violation(
                    f"allocation: segment {space}/{number} has another payload than its winner's",
                    f"{payload!r}, not {winners[number]!r}",
                )
        for call in calls:
            _check_known(records, space, call.number, call.returned)


def _check_known(records: Records, space: str, number: int | None, returned: int | None) -> None:
    if number is None or returned is None:
        return
    for name, denied, called in records.denials:
        if name == space and denied <= number and called > returned:
            raise Violation(
                f"allocation: {space}/{denied} was denied after {number} was allocated",
                f"allocated by {returned}, asked at {called}",
            )
    for name, called, _, tail in records.tails:
        if name == space and tail <= number and called > returned:
            raise Violation(
                f"allocation: the tail of {space} was {tail} after {number} was allocated",
                f"allocated by {returned}, asked at {called}",
            )


def check_standing(records: Records) -> None:
    """A capture does not stand once another, with a higher fence, was granted.

    Raises:
        Violation: somebody was told that it does.
    """
    for where, fence, called in records.standing:
        for one in records.seen.get(where, ()):
            if one.input[0] != "capture" or one.returned is None:
                continue
            if one.input[1] > fence and one.returned < called:
                raise Violation(
                    f"a lost capture of {show(where)} was said to stand",
                    f"asked at {called}, under {fence.hex()}\n{evidence(records, where)}",
                )


def check_listings(records: Records) -> None:
    """A space is listed once something was allocated in it, and none that nobody uses ever is.

    Raises:
        Violation: it is not so.
    """
    for called, names in records.listings:
        lacking = [
            space
            for space, calls in sorted(records.allocations.items())
            if space not in names
            and any(c.returned is not None and c.returned < called for c in calls)
        ]
        strange = [name for name in names if name not in records.allocations]
        if lacking or strange or names != sorted(set(names)):
            raise Violation("the list of spaces is wrong", f"{names}, asked at {called}")


# ------------------------------------------------------------------ listeners


def check_feed(feed: Feed, values: dict[Register, bytes], records: Records) -> None:
    """A listener saw nothing twice, nothing untrue, and nothing of a segment after its trim.

    Raises:
        Violation: it did.
    """
    seen: set[Any] = set()
    dropped: set[int] = set()
    for event in feed.events:
        what: Any
        if isinstance(event, Written):
            what = event.address
            _check_written(feed, event, values, records)
            number = event.address.segment
        elif isinstance(event, Allocated):
            what = number = event.segment
        else:
            dropped.update(range(event.segment, min(event.stop, event.segment + 10_000)))
            continue
        if what in seen:
            raise Violation(f"listener {feed.name} was told twice", repr(event))
        if number in dropped:
            raise Violation(f"listener {feed.name} heard of a segment after its trim", repr(event))
        seen.add(what)


def _check_written(
    feed: Feed, event: Written, values: dict[Register, bytes], records: Records
) -> None:
    where = (feed.space, *event.address)
    true = values.get(where)
    if true is not None and true != event.value:
        raise Violation(
            f"listener {feed.name} was told {event.value!r} of {show(where)}, which is {true!r}",
            evidence(records, where),
        )
    if tuple(event.address) < feed.first:
        raise Violation(f"listener {feed.name} was told of what it did not ask for", repr(event))
    tried = [w.input[-1] for w in records.writes.get(where, ())]
    if event.value not in tried:
        raise Violation(f"listener {feed.name} was told a value nobody wrote", repr(event))


def check_order(feed: Feed, records: Records) -> None:
    """What was written earlier, at a lower address, was not told later.

    The past is told in the order of addresses and the present in that of the writes, so a write
    that is before another in both orders comes before it.

    Raises:
        Violation: it did.
    """
    told: list[tuple[Address, int, Written]] = []
    latest = -1
    for event in feed.events:
        if not isinstance(event, Written):
            continue
        began, done = _span(event, feed.space, records)
        if done < latest:
            for address, other_began, other in told:
                if address > event.address and other_began > done:
                    raise Violation(
                        f"listener {feed.name} was told a write before what came before it",
                        f"{other!r}, begun at {other_began}, was told before {event!r}, which was "
                        f"done at {done}",
                    )
        latest = max(latest, began)
        told.append((event.address, began, event))


def _span(event: Written, space: str, records: Records) -> tuple[int, float]:
    """When the first write of this value began, and when anybody knew it to be done."""
    where = (space, *event.address)
    own = [w for w in records.writes.get(where, ()) if w.input[-1] == event.value]
    began = min((w.called for w in own), default=0)
    ends = [w.returned for w in own if w.returned is not None and w.output == "ok"]
    return began, min(ends, default=math.inf)


def missing(feed: Feed, values: dict[Register, bytes], live: set[tuple[str, int]]) -> list[Any]:
    """What a whole listener should have been told by now and was not.

    Args:
        values: what is decided.
        live: the segments that are allocated and not trimmed.
    """
    told = {event.address for event in feed.events if isinstance(event, Written)}
    allocated = {event.segment for event in feed.events if isinstance(event, Allocated)}
    lacking: list[Any] = [
        (number,)
        for space, number in sorted(live)
        if space == feed.space and number >= feed.first[0] and number not in allocated
    ]
    for (space, number, offset), value in sorted(values.items()):
        at = (number, offset)
        if space == feed.space and (space, number) in live and at >= feed.first and at not in told:
            lacking.append((*at, value))
    return lacking


def trims_missing(feed: Feed, gone: set[tuple[str, int]], size: int) -> list[int]:
    """The trimmed segments of which a whole listener was not told.

    A listener forgets a segment once it has told all `size` writes to it, and owes no more word.
    """
    told: set[int] = set()
    writes: dict[int, int] = {}
    for event in feed.events:
        if isinstance(event, SegmentsTrimmed):
            told.update(range(event.segment, event.stop))
        elif isinstance(event, Written):
            number = event.address.segment
            writes[number] = writes.get(number, feed.skipped(number)) + 1
    told.update(number for number, count in writes.items() if count == size)
    first = feed.first[0]
    return sorted(n for space, n in gone if space == feed.space and n >= first and n not in told)
