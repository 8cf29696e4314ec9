"""What the clients of a simulated run did and saw, in the order in which it happened.

A clock of its own ticks at every call and return, so that there are no ties.  Each register has
its history: writes are entered when they are called, since a client that dies leaves them with an
unknown outcome; reads and captures when they return, since without a result they say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from wormspace.sim.linearizability import UNKNOWN, Operation

Register = tuple[str, int, int]
"""(space, segment, offset)."""


class Violation(Exception):
    """A claim that does not hold: the result of the run is wrong."""

    def __init__(self, claim: str, detail: str) -> None:
        super().__init__(claim, detail)
        self.claim = claim
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.claim}\n{self.detail}"


@dataclass
class WriteCall:
    """A write or settle under way: until something closes it, its outcome is unknown."""

    client: str
    input: tuple[Any, ...]
    called: int
    output: Any = UNKNOWN
    returned: int | None = None
    valid: bool = True

    def operation(self) -> Operation:
        """As the linearizability checker wants it."""
        return Operation(self.client, self.input, self.output, self.called, self.returned)


@dataclass
class Allocation:
    """One call of `alloc`: its payload is unique; `number` is None while its outcome is unknown."""

    client: str
    payload: bytes
    called: int
    number: int | None = None
    returned: int | None = None


@dataclass
class Feed:
    """What one listener was told, in order; of interest at the end only if it is `whole`."""

    name: str
    space: str
    first: tuple[int, int]
    whole: bool = True
    events: list[Any] = field(default_factory=list)

    def skipped(self, segment: int) -> int:
        """How many registers of a segment lie before its start."""
        return self.first[1] if segment == self.first[0] else 0


@dataclass
class Trimming:
    """One call of `trim` or `trim_prefix` on segments [first, stop)."""

    space: str
    first: int
    stop: int
    called: int
    returned: int | None = None


class Records:
    """The history of a run."""

    def __init__(self) -> None:
        self.clock = 0
        self.calls = 0
        self.outcomes: dict[str, int] = {}
        self.writes: dict[Register, list[WriteCall]] = {}
        self.seen: dict[Register, list[Operation]] = {}
        self.allocations: dict[str, list[Allocation]] = {}
        self.payloads: list[tuple[str, int, bytes]] = []
        self.tails: list[tuple[str, int, int, int]] = []
        self.trimmings: list[Trimming] = []
        self.gone: dict[tuple[str, int], int] = {}
        self.denials: list[tuple[str, int, int]] = []
        self.feeds: list[Feed] = []
        self.standing: list[tuple[Register, bytes, int]] = []
        self.listings: list[tuple[int, list[str]]] = []

    def tick(self) -> int:
        """The next moment."""
        self.clock += 1
        return self.clock

    def call(self) -> int:
        """A client calls something."""
        self.calls += 1
        return self.tick()

    def count(self, outcome: str) -> None:
        """For the summary: how calls end."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    # ------------------------------------------------------------ registers

    def write(self, where: Register, client: str, fence: bytes, value: bytes) -> WriteCall:
        """A write is called."""
        entry = WriteCall(client, ("write", fence, value), self.tick())
        self.writes.setdefault(where, []).append(entry)
        return entry

    def settle(self, where: Register, client: str) -> WriteCall:
        """A settle is called; what it writes if it meets nothing is its own."""
        called = self.tick()
        entry = WriteCall(client, ("settle", f"settled:{client}:{called}".encode()), called)
        self.writes.setdefault(where, []).append(entry)
        return entry

    def settled(self, entry: WriteCall, value: bytes) -> None:
        """The register was settled, and this is its value."""
        entry.output, entry.returned = value, self.tick()

    def done(self, entry: WriteCall) -> None:
        """The write was acknowledged."""
        entry.output, entry.returned = "ok", self.tick()

    def lost(self, entry: WriteCall, other: bytes) -> None:
        """The write was answered with the other value that the register holds."""
        entry.output, entry.returned = ("lost", other), self.tick()

    def refused(self, entry: WriteCall) -> None:
        """The write was refused before it was sent: it never was."""
        entry.valid = False

    def read(self, where: Register, client: str, called: int, value: bytes | None) -> None:
        """A read returned."""
        self._see(where, Operation(client, ("read",), value, called, self.tick()))

    def read_range(
        self, space: str, segment: int, start: int, client: str, called: int, values: Iterable[Any]
    ) -> None:
        """A read of a range returned; each register of it counts for itself."""
        for offset, value in enumerate(values, start):
            self.read((space, segment, offset), client, called, value)

    def captured(
        self,
        segment_name: tuple[str, int],
        span: tuple[int, int],
        client: str,
        called: int,
        fence: bytes,
        written: Mapping[int, bytes],
    ) -> None:
        """A capture of the registers of `span` was granted, and said which are written."""
        for offset in range(*span):
            asked = ("capture", fence)
            answer = Operation(client, asked, written.get(offset), called, self.tick())
            self._see((*segment_name, offset), answer)

    def _see(self, where: Register, operation: Operation) -> None:
        self.seen.setdefault(where, []).append(operation)

    def history(self, where: Register) -> list[Operation]:
        """All that is known of one register, by call."""
        entries = [w.operation() for w in self.writes.get(where, ()) if w.valid]
        return sorted([*entries, *self.seen.get(where, ())], key=lambda one: one.called)

    def registers(self) -> list[Register]:
        """Every register that anybody touched, in order."""
        return sorted({**self.writes, **self.seen})

    def stands(self, where: Register, fence: bytes, called: int) -> None:
        """Somebody was told that nobody captured a register since the capture under `fence`."""
        self.standing.append((where, fence, called))

    # ------------------------------------------------------------ segments

    def listed(self, called: int, names: list[str]) -> None:
        """A list of the spaces was given."""
        self.listings.append((called, names))

    def allocate(self, space: str, client: str, payload: bytes) -> Allocation:
        """An allocation is called."""
        entry = Allocation(client, payload, self.tick())
        self.allocations.setdefault(space, []).append(entry)
        return entry

    def allocated(self, entry: Allocation, number: int) -> None:
        """It returned."""
        entry.number, entry.returned = number, self.tick()

    def allocated_segments(self) -> Iterator[tuple[str, int]]:
        """Those that somebody knows to be allocated, by space and number; some of them twice."""
        for space, calls in self.allocations.items():
            for call in calls:
                if call.number is not None:
                    yield space, call.number
        for space, number, _ in self.payloads:
            yield space, number

    def payload(self, space: str, number: int, payload: bytes) -> None:
        """Somebody was told what a segment was allocated for."""
        self.payloads.append((space, number, payload))

    def tail(self, space: str, called: int, tail: int) -> None:
        """A call of `tail` returned."""
        self.tails.append((space, called, self.tick(), tail))

    def not_allocated(self, space: str, number: int, called: int) -> None:
        """Somebody was told that the segment is not allocated."""
        self.denials.append((space, number, called))

    def trim(self, space: str, first: int, stop: int) -> Trimming:
        """A trim is called."""
        entry = Trimming(space, first, stop, self.tick())
        self.trimmings.append(entry)
        return entry

    def trimmed(self, entry: Trimming) -> None:
        """It returned."""
        entry.returned = self.tick()

    def was_trimmed(self, space: str, number: int) -> None:
        """Somebody was told that the segment is trimmed."""
        self.gone.setdefault((space, number), self.tick())

    # ------------------------------------------------------------ listeners

    def listener(self, name: str, space: str, first: tuple[int, int]) -> Feed:
        """Somebody begins to listen."""
        feed = Feed(name, space, first)
        self.feeds.append(feed)
        return feed
