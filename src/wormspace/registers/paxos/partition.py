"""A replica set as a client sees it: links to its servers, and the operations under way.

An operation is a proposer machine of `wormspace.paxos` with an id, a retry timer and a deadline.
A partition routes answers to it, and asks it to send again what a server has not answered when
that server's link comes up, or when a retry is due.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping
from typing import Protocol

from wormspace.addresses import Span
from wormspace.errors import Refused, Unavailable, UsageError, ValueTooLarge
from wormspace.paxos.effects import Send
from wormspace.paxos.messages import MAX_ITEMS, Decided, Request
from wormspace.paxos.quorum import is_quorum, majority, out_of_reach
from wormspace.wire.link import Link, Outgoing
from wormspace.wire.messages import ONE_WAY, ClientMessage, Failed, ServerMessage

MARKS_DELAY_S = 0.005


class Operation(Protocol):
    """What a partition asks of an operation under way."""

    def on_message(self, server: int, message: ServerMessage) -> None:
        """An answer from a server."""

    def on_up(self, server: int) -> None:
        """A link came up: send it again what that server has not answered."""

    def on_down(self, server: int) -> None:
        """A link went down: its answers are lost."""

    def cancel(self, error: Exception) -> None:
        """Give up, with this error."""


class Partition:
    """Links to the servers of one replica set.

    Attributes:
        index: its place in the cluster's list of partitions.
        size: how many servers it has.
        max_value: the largest value all of them accept, in bytes, as far as is known.
    """

    def __init__(self, index: int, links: list[Link]) -> None:
        self.index = index
        self.links = links
        self.size = len(links)
        self.max_value = min(link.max_value for link in links)
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(ONE_WAY + 1)
        self._operations: dict[int, Operation] = {}
        self._marks: dict[tuple[str, int, bytes], list[Span]] = {}
        self._marks_timer: asyncio.TimerHandle | None = None
        self._turn = 0

    def start(self) -> None:
        """Begin to connect."""
        for server, link in enumerate(self.links):
            link.start(self, server)

    async def close(self, error: Exception) -> None:
        """Give up every operation with `error`, send what marks are left, disconnect."""
        for operation in list(self._operations.values()):
            operation.cancel(error)
        self.send_marks()
        await asyncio.gather(*(link.close() for link in self.links))

    # ------------------------------------------------------------ operations

    def enter(self, operation: Operation) -> int:
        """Register an operation; returns the id for its requests."""
        request_id = next(self._ids)
        self._operations[request_id] = operation
        return request_id

    def leave(self, request_id: int) -> None:
        """The operation is over; answers still to come are ignored."""
        self._operations.pop(request_id, None)

    def post(self, request_id: int, sends: Iterable[Send]) -> None:
        """Send; a message for several servers is encoded once.  Drops what cannot be sent."""
        outgoing: Outgoing | None = None
        for send in sends:
            if outgoing is None or outgoing.message is not send.message:
                outgoing = Outgoing(request_id, send.message)
            self.links[send.server].post(outgoing)

    def tell(self, server: int, request_id: int, message: ClientMessage) -> None:
        """Send one message to one server."""
        self.links[server].post(Outgoing(request_id, message))

    def pick(self) -> int:
        """A server to ask first: those that are up in turn, and those that are silent last."""
        turns = [(self._turn + 1 + i) % self.size for i in range(self.size)]
        up = [turn for turn in turns if self.links[turn].up]
        self._turn = next((turn for turn in up if not self.links[turn].quiet), (up or turns)[0])
        return self._turn

    # ------------------------------------------------------------ decided marks

    def mark(self, space: str, number: int, ballot: bytes, spans: Iterable[Span]) -> None:
        """Let the servers know of decisions: with the next write, or in a few milliseconds."""
        self._marks.setdefault((space, number, ballot), []).extend(spans)
        if self._marks_timer is None:
            self._marks_timer = self._loop.call_later(MARKS_DELAY_S, self.send_marks)

    def send_marks(self) -> None:
        """Send the marks that wait."""
        if self._marks_timer is not None:
            self._marks_timer.cancel()
            self._marks_timer = None
        marks, self._marks = self._marks, {}
        for (space, number, ballot), spans in marks.items():
            joined = _joined(spans)
            for at in range(0, len(joined), MAX_ITEMS):
                message: Request = Decided(space, number, ballot, joined[at : at + MAX_ITEMS])
                self.post(ONE_WAY, [Send(i, message) for i in range(self.size)])

    def check(self, value: bytes) -> None:
        """Make sure that the servers take the value.

        Raises:
            UsageError: it is not bytes.
            ValueTooLarge: it is larger than all of them take.
        """
        if type(value) is not bytes:
            raise UsageError(f"a value is bytes, not {type(value).__name__}")
        if len(value) > self.max_value:
            raise ValueTooLarge(f"a value of {len(value)} bytes; the servers take {self.max_value}")

    # ------------------------------------------------------------ wire.link.Receiver

    def on_up(self, server: int) -> None:
        self.max_value = min(link.max_value for link in self.links)
        for operation in list(self._operations.values()):
            operation.on_up(server)

    def on_down(self, server: int) -> None:
        for operation in list(self._operations.values()):
            operation.on_down(server)

    def on_message(self, server: int, request_id: int, message: ServerMessage) -> None:
        operation = self._operations.get(request_id)
        if operation is not None:
            operation.on_message(server, message)

    # ------------------------------------------------------------ trouble

    @property
    def up(self) -> int:
        """The mask of servers whose link is up."""
        return sum(1 << i for i, link in enumerate(self.links) if link.up)

    def refusal(self) -> Refused | None:
        """The reason, if so many servers refuse this client that no quorum is left."""
        refused = 0
        reason = None
        for i, link in enumerate(self.links):
            if link.refused:
                refused |= 1 << i
                reason = link.refused
        return reason if out_of_reach(refused, self.size) else None

    def unavailable(
        self, what: str, heard: int, failures: Mapping[int, Failed] | None = None
    ) -> Unavailable:
        """The error for an operation that ran out of time.

        Args:
            heard: the servers that answered, as a mask.
            failures: what those said that could not do it.
        """
        silent = []
        for i, link in enumerate(self.links):
            if not heard >> i & 1:
                failed = failures.get(i) if failures else None
                why = link.trouble or (failed.text if failed else "did not answer in time")
                silent.append(f"{link.name} ({why})")
        answered = heard.bit_count()
        if is_quorum(heard, self.size):
            said = f"{answered} of {self.size} servers answered, and did not agree in time"
        else:
            said = f"{answered} of {self.size} servers answered in time, {majority(self.size)} must"
        without = f"; without: {', '.join(silent)}" if silent else ""
        return Unavailable(
            f"{what}: {said}{without}. The outcome is unknown; the same call again is safe."
        )


def _joined(spans: list[Span]) -> list[Span]:
    """Ascending spans with neighbours joined."""
    spans.sort()
    out = [spans[0]]
    for lo, hi in spans[1:]:
        last = out[-1]
        if lo <= last[1]:
            out[-1] = (last[0], max(hi, last[1]))
        else:
            out.append((lo, hi))
    return out
