"""Runs a `Prepare` under asyncio: the capture, and reports that come in many pages.

A long report is asked of one server after the other.  What one of them knows to be decided is not
asked of the next (a decided row outweighs any other), so that of a segment that is written and
decided one report travels, and not one from each server.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from wormspace.addresses import Span
from wormspace.knobs import KNOBS
from wormspace.paxos import prepare
from wormspace.paxos.effects import Send
from wormspace.paxos.messages import COMPLETE, Promise, Read, Reject, Report, SegmentTrimmed
from wormspace.paxos.prepare import Prepare
from wormspace.registers.paxos.operations import Awaited, gone
from wormspace.registers.paxos.partition import Partition
from wormspace.registers.spans import as_spans
from wormspace.wire.messages import Failed, ServerMessage


class _Page:
    """A question for one page of one server's report.

    Each has an id of its own, and keeps it when it is asked again: a second answer to the same
    question is known as one, and does not begin a second row of questions.
    """

    def __init__(self, owner: CaptureOperation, send: Send) -> None:
        self._owner = owner
        self.send = send
        self._id = owner.partition.enter(self)

    def ask(self) -> None:
        """Ask, or ask again."""
        self._owner.partition.post(self._id, [self.send])

    def leave(self) -> None:
        """It is answered, or of no interest any more."""
        self._owner.partition.leave(self._id)

    def on_message(self, server: int, message: ServerMessage) -> None:
        if server == self.send.server:
            if not isinstance(message, Failed):
                self._owner.leave_page(server)
            self._owner.on_message(server, message)

    def on_up(self, server: int) -> None:
        """Its owner asks again."""

    def on_down(self, server: int) -> None:
        """Its owner waits for the link."""

    def cancel(self, error: Exception) -> None:
        """Its owner is told as well."""


class CaptureOperation(Awaited[Prepare]):
    """Runs a `Prepare` until it is promised, preempted or gone.

    Attributes:
        reporting: the server that is sending the rest of its report; None if none is.
        pages: by server, what was asked of it last.
        waiting: by server, what to ask next of those that promised, once it is their turn.
        wanted: by server, the registers that are of interest: the others are known as decided.
    """

    def __init__(self, partition: Partition, machine: Prepare, deadline: float) -> None:
        what = f"capture of {machine.space}/{machine.segment}[{machine.start}:{machine.stop}]"
        super().__init__(partition, what, deadline)
        self.machine = machine
        self.reporting: int | None = None
        self.pages: dict[int, _Page] = {}
        self.waiting: dict[int, Send] = {}
        self.wanted: dict[int, tuple[Span, ...]] = {}

    # ------------------------------------------------------------ the pages of reports

    def unanswered(self) -> Iterable[Send]:
        """The capture; of the report that is coming, the page that was asked for last."""
        for send in prepare.begin(self.machine):
            if not isinstance(send.message, Read):
                yield send
            elif send.server in self.pages:
                yield self.pages[send.server].send

    def post(self, sends: Iterable[Send]) -> None:
        captures = []
        for send in sends:
            if isinstance(send.message, Read):
                self._ask(send)
            else:
                captures.append(send)
        self.partition.post(self.id, captures)

    def _ask(self, send: Send) -> None:
        page = self.pages.get(send.server)
        if page is None or page.send is not send:
            self.leave_page(send.server)
            page = self.pages[send.server] = _Page(self, send)
        page.ask()

    def _go_on(self, sends: Iterable[Send]) -> None:
        """Ask for what comes next of the reports, one server at a time."""
        for send in sends:
            self.waiting[send.server] = send
        heard = self.machine.promised | self.machine.rejected
        if self.reporting is not None and heard >> self.reporting & 1:
            self.reporting = None
        while self.waiting and self.machine.phase == prepare.PROMISING:
            server = next(iter(self.waiting)) if self.reporting is None else self.reporting
            following = self.waiting.pop(server, None)
            if following is None:
                return
            self.reporting = server
            narrow = self._narrow(following)
            if narrow is not None:
                self._ask(narrow)
                return
            nothing = Report([], COMPLETE)
            self.machine, _ = prepare.on_report(self.machine, server, nothing)
            self.reporting = None

    def _narrow(self, send: Send) -> Send | None:
        """The question without what is known as decided; None if nothing is left."""
        m = self.machine
        start, stop = send.message.spans[0] if isinstance(send.message, Read) else (0, 0)
        if send.server not in self.wanted:
            self.wanted[send.server] = self._undecided(start, stop)
        left = [(max(lo, start), hi) for lo, hi in self.wanted[send.server] if hi > start]
        return Send(send.server, Read(m.space, m.segment, left)) if left else None

    def _undecided(self, start: int, stop: int) -> tuple[Span, ...]:
        """What of [start, stop) nobody reported as decided; not in more spans than a read has."""
        decided = [row.offset for row in prepare.reported(self.machine) if row.decided]
        first = bisect_left(decided, start)
        spans: list[Span] = []
        for lo, hi in as_spans(decided[first:]):
            if len(spans) == KNOBS.registers_spans - 1:
                break
            if start < lo:
                spans.append((start, lo))
            start = hi
        if start < stop:
            spans.append((start, stop))
        return tuple(spans)

    def on_silence(self) -> None:
        super().on_silence()
        self.reporting = None  # it is somebody else's turn
        self._after(())

    def on_down(self, server: int) -> None:
        self._pass_on(server)
        super().on_down(server)

    def _on_failed(self, server: int, failed: Failed) -> None:
        super()._on_failed(server, failed)
        if not self.over:
            self._pass_on(server)

    def _pass_on(self, server: int) -> None:
        """If it is that server's turn to report, it is another's now."""
        if server == self.reporting:
            self.reporting = None
            self._after(())

    def leave(self) -> None:
        super().leave()
        for server in list(self.pages):
            self.leave_page(server)

    def leave_page(self, server: int) -> None:
        """The page that was asked of a server last is here, or of no interest any more."""
        page = self.pages.pop(server, None)
        if page is not None:
            page.leave()

    # ------------------------------------------------------------ the machine

    def heard(self) -> int:
        return self.machine.promised | self.machine.rejected

    def on_reply(self, server: int, message: ServerMessage) -> None:
        sends: tuple[Send, ...] = ()
        if isinstance(message, Promise):
            self.machine, sends = prepare.on_promise(self.machine, server, message)
        elif isinstance(message, Reject):
            self.machine = prepare.on_reject(self.machine, server, message.promised)
        elif isinstance(message, Report):
            self._on_page(server, message)
            return
        elif isinstance(message, SegmentTrimmed):
            self.cancel(gone((self.machine.space, self.machine.segment)))
            return
        self._after(sends)

    def _on_page(self, server: int, report: Report) -> None:
        """Ask for the next page before this one is merged, so that the server is at it meanwhile.

        All pages are merged in the order in which they came: the last one ends the report.
        """
        m, is_asked = self.machine, server == self.reporting
        if is_asked and report.next != COMPLETE:
            rest = Send(server, Read(m.space, m.segment, [(report.next, m.stop)]))
            following = self._narrow(rest)
            if following is not None:
                self._ask(following)
            else:
                report = Report(report.rows, COMPLETE)
        self.loop.call_soon(self._merge, server, report, is_asked)

    def _merge(self, server: int, report: Report, is_asked: bool) -> None:
        if self.over:
            return
        try:
            self.machine, sends = prepare.on_report(self.machine, server, report)
        except prepare.ClashingReports as e:
            self.cancel(self.clashing(e))
            return
        self._after(() if is_asked else sends)

    def _after(self, sends: Iterable[Send]) -> None:
        self._go_on(sends)
        if self.is_everyone_heard:
            self.give_up()
        self._check_done()

    def give_up(self) -> None:
        self.machine = prepare.give_up(self.machine)
        self._check_done()

    def _check_done(self) -> None:
        if self.machine.phase in (prepare.PROMISED, prepare.PREEMPTED):
            self.finish(self.machine)
