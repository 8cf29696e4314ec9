"""Every message of a run against the protocol that is proved (`verification/`, layer 2).

What is checked, by the names of docs/verification.md: what the proof assumes, or proves of the
client's code:

* *ballots*: one ballot is that of one capture;
* *one value*: under one ballot, one value is sent for a register; *one issuer*: so also of the
  ballot zero, that of the unsafe write;
* *pages first*: before the first write under a ballot leaves, whole reports of a majority have come
  in, and a value that they speak of is the one that is written;
* *store*: what a server answered stands.  Whatever it is asked after that, by anybody, before or
  after any crash, it answers as the proved handlers (`paxos.acceptor`) do in a state that has at
  least all that.  Promises only rise, so if they refuse there, it must not have granted.

A request that was sent before an answer left may be handled before or after it; then nothing is
claimed.  So the checks are as right for what a proxy saw between real processes as for a simulated
run.  They never accuse anybody wrongly; that they miss little is shown by mutation.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable

from wormspace.paxos.acceptor import ACCEPTED, on_capture, on_write
from wormspace.paxos.ballot import UNSAFE, show
from wormspace.paxos.messages import (
    COMPLETE,
    Capture,
    Done,
    Promise,
    Read,
    Reject,
    Report,
    Row,
    SegmentTrimmed,
    Trim,
    Write,
    Written,
)
from wormspace.paxos.quorum import majority
from wormspace.paxos.ranges import Range, overlaps, overlay
from wormspace.sim.records import Violation
from wormspace.sim.wiretap import Connection
from wormspace.wire.messages import ClientMessage, ServerMessage

Array = tuple[str, int]
Pages = list[tuple[int, int]]

_on_capture, _on_write = on_capture, on_write


class _Ledger:
    """What one server has answered of one segment; what it has been asked.

    Attributes:
        promises: at least this is promised.
        accepted: by offset, (moment, ballot, value), ascending: at least this was accepted.
        asked: by (offset, ballot), the values it was asked to accept.
        ballots: all that it was asked to promise, or to accept under.
    """

    __slots__ = ("accepted", "asked", "ballots", "is_gone", "may_be_gone", "promises")

    def __init__(self) -> None:
        self.promises: tuple[Range, ...] = ()
        self.accepted: dict[int, list[tuple[int, bytes, bytes]]] = {}
        self.asked: dict[tuple[int, bytes], set[bytes]] = {}
        self.ballots: set[bytes] = {UNSAFE}
        self.is_gone = False
        self.may_be_gone = False

    def promise(self, lo: int, hi: int, ballot: bytes) -> None:
        """Promised on [lo, hi), where nothing higher was."""
        old = self.promises
        self.promises = overlay(old, Range(lo, hi, ballot))
        for r in old:
            if r.ballot > ballot and overlaps(r, lo, hi):
                higher = Range(max(lo, r.lo), min(hi, r.hi), r.ballot)
                self.promises = overlay(self.promises, higher)

    def accept(self, moment: int, offset: int, ballot: bytes, value: bytes) -> None:
        """Accepted, and told so."""
        held = self.accepted.setdefault(offset, [])
        if not held or held[-1][1] < ballot:
            held.append((moment, ballot, value))
        self.promise(offset, offset + 1, ballot)

    def held_at(self, moment: int, offset: int) -> Row:
        """What it had accepted at least, at that moment."""
        for at, ballot, value in reversed(self.accepted.get(offset, ())):
            if at < moment:
                return Row(offset, ballot, value)
        return Row(offset)


class _Asked:
    """A request on its way, and what was certain of its server when it came in."""

    __slots__ = ("is_gone", "message", "moment", "promises")

    def __init__(self, message: ClientMessage, moment: int, ledger: _Ledger) -> None:
        self.message = message
        self.moment = moment
        self.promises = ledger.promises
        self.is_gone = ledger.is_gone


class _Heard:
    """What one server reported to a captor: the pages that came in, and their rows."""

    __slots__ = ("granted_at", "is_granted", "pages", "rows")

    def __init__(self) -> None:
        self.is_granted = False
        self.granted_at = 0
        self.pages: Pages = []
        self.rows: dict[int, Row] = {}

    def is_whole(self, start: int, stop: int, decided: Iterable[int]) -> bool:
        """Whether the pages leave nothing out, but for what is known to be decided."""
        at = start
        for lo, hi in sorted([*self.pages, *((offset, offset + 1) for offset in decided)]):
            if lo > at:
                break
            at = max(at, hi)
        return self.is_granted and at >= stop


class _CaptureWatch:
    """One capture: by whom, of what, and what it has heard."""

    __slots__ = ("by", "decided", "heard", "message", "partial", "reports")

    def __init__(self, by: str, message: Capture) -> None:
        self.by = by
        self.message = message
        self.heard: dict[str, _Heard] = {}
        self.decided: set[int] = set()
        self.reports: list[dict[int, Row]] | None = None
        """What the whole reports said when the first write under the ballot left; then the rest."""
        self.partial: list[dict[int, Row]] = []


class ProtocolCheck:
    """A `wiretap.Listener`; `check` raises the first thing that was wrong."""

    def __init__(self) -> None:
        self.first: Violation | None = None
        self.messages = 0
        self._ledgers: dict[tuple[str, Array], _Ledger] = {}
        self._under_way: dict[tuple[Connection, int], deque[_Asked]] = {}
        self._spans: dict[tuple[Connection, bytes], list[tuple[int, Array, Pages]]] = {}
        self._granted: dict[tuple[str, bytes], int] = {}
        self._promised: dict[tuple[Connection, bytes], list[tuple[bytes, Capture]]] = {}
        self._captures: dict[bytes, _CaptureWatch] = {}
        self._open: dict[tuple[str, Array], dict[bytes, _CaptureWatch]] = {}
        self._values: dict[tuple[Array, int, bytes], bytes] = {}

    def check(self) -> None:
        """Look back.

        Raises:
            Violation: some message was not one of the protocol's.
        """
        if self.first is not None:
            raise self.first

    def _blame(self, claim: str, detail: str) -> None:
        # Whoever sends is in the midst of its work: keep what is wrong for `check`.
        if self.first is None:
            self.first = Violation(claim, detail)

    # ------------------------------------------------------------ what clients send

    def on_request_sent(self, c: Connection, request_id: int, m: ClientMessage) -> None:
        if isinstance(m, Capture):
            known = self._captures.get(m.ballot)
            if known is None:
                known = self._captures[m.ballot] = _CaptureWatch(c.client, m)
                self._open.setdefault((c.client, (m.space, m.segment)), {})[m.ballot] = known
            elif known.message != m:
                self._blame("ballots: two captures have one", f"{known.message} and {m}")
        elif isinstance(m, Write):
            self._on_write_sent(c, m)

    def _on_write_sent(self, c: Connection, m: Write) -> None:
        segment_name = (m.space, m.segment)
        capture = None if m.ballot == UNSAFE else self._captures.get(m.ballot)
        if capture is not None and capture.reports is None:
            self._count_reports(capture, c.replicas, m)
        elif capture is None and m.ballot != UNSAFE:
            self._blame("ballots: a write under one that nobody captured with", f"{c.client}: {m}")
        for offset, value in zip(m.offsets, m.values, strict=True):
            key = (segment_name, offset, m.ballot)
            known = self._values.get(key)
            if known is None:
                self._values[key] = value
                if capture is not None:
                    self._check_safe(capture, c.replicas, offset, value)
            elif known != value:
                rule = "one issuer" if m.ballot == UNSAFE else "one value"
                self._blame(
                    f"{rule}: two values under {show(m.ballot)}",
                    f"{segment_name}/{offset}: {known!r}, and {value!r} from {c.client}",
                )

    def _count_reports(self, capture: _CaptureWatch, replicas: int, m: Write) -> None:
        asked = capture.message
        whole = [
            heard
            for heard in capture.heard.values()
            if heard.is_whole(asked.start, asked.stop, capture.decided)
        ]
        self._open.get((capture.by, (asked.space, asked.segment)), {}).pop(m.ballot, None)
        if len(whole) < majority(replicas):
            heard = {name: (h.is_granted, sorted(h.pages)) for name, h in capture.heard.items()}
            self._blame(
                "pages first: a write under a ballot before the reports of a majority were whole",
                f"{capture.by}: {asked}\nwrites {m}\nheard {heard}",
            )
        capture.reports = [dict(h.rows) for h in whole]
        capture.partial = [dict(h.rows) for h in capture.heard.values() if h not in whole]

    def _check_safe(self, capture: _CaptureWatch, replicas: int, offset: int, value: bytes) -> None:
        """Some majority of the reports allows the value."""
        reports = capture.reports or []
        told = [rows.get(offset) for rows in reports]
        beside = [rows[offset] for rows in capture.partial if offset in rows]
        size = min(len(told), majority(replicas))
        if not any(_allows(some, beside, value) for some in itertools.combinations(told, size)):
            self._blame(
                "pages first: a value is not the one that was reported",
                f"{capture.message}: {value!r} at {offset}, reported {told}",
            )

    def on_answer_received(
        self, c: Connection, request_id: int, m: ServerMessage, raw: bytes
    ) -> None:
        if isinstance(m, Promise):
            for ballot, asked in self._promised.get((c, raw), ()):
                capture = self._captures.get(ballot)
                if capture is not None and capture.reports is None:
                    heard = capture.heard.setdefault(c.server, _Heard())
                    heard.is_granted = True
                    heard.granted_at = self._granted[c.server, ballot]
                    end = asked.stop if m.next == COMPLETE else m.next
                    self._note(capture, heard, [(asked.start, end)], m.rows)
        elif isinstance(m, Report):
            # A page may be asked for under another id than the capture was, on any connection.
            for moment, segment_name, pages in self._spans.get((c, raw), ()):
                for capture in self._open.get((c.client, segment_name), {}).values():
                    known = capture.heard.get(c.server)
                    if known is not None and moment >= known.granted_at:
                        self._note(capture, known, pages, m.rows)

    def _note(self, capture: _CaptureWatch, heard: _Heard, pages: Pages, rows: list[Row]) -> None:
        """A page of a server's report came in."""
        heard.pages += pages
        for row in rows:
            if row.decided:
                capture.decided.add(row.offset)
            if row.ballot >= capture.message.ballot:
                continue  # it came after the promise, and binds nobody who wrote below it
            known = heard.rows.get(row.offset)
            if known is None or known.ballot <= row.ballot:
                heard.rows[row.offset] = row

    # ------------------------------------------------------------ what servers answer

    def _ledger(self, c: Connection, segment_name: Array) -> _Ledger:
        return self._ledgers.setdefault((c.server, segment_name), _Ledger())

    def on_request(self, c: Connection, request_id: int, m: ClientMessage) -> None:
        self.messages += 1
        if not isinstance(m, Capture | Write | Read | Trim):
            return
        ledger = self._ledger(c, (m.space, m.segment))
        if isinstance(m, Write):
            ledger.ballots.add(m.ballot)
            for offset, value in zip(m.offsets, m.values, strict=False):
                ledger.asked.setdefault((offset, m.ballot), set()).add(value)
        elif isinstance(m, Capture):
            ledger.ballots.add(m.ballot)
        elif isinstance(m, Trim):
            for number in range(m.segment, min(m.stop, m.segment + 10_000)):
                self._ledger(c, (m.space, number)).may_be_gone = True
        waiting = self._under_way.setdefault((c, request_id), deque())
        waiting.append(_Asked(m, self.messages, ledger))

    def on_answer(self, c: Connection, request_id: int, m: ServerMessage, raw: bytes) -> None:
        if not isinstance(m, Promise | Reject | Written | Report | SegmentTrimmed | Done):
            self._take(c, request_id, None)
            return
        asked = self._take(c, request_id, m)
        if asked is None:
            return
        q = asked.message
        where = f"{c.server}, asked by {c.client}: {q}"
        if isinstance(q, Trim):
            if isinstance(m, Done):
                for number in range(q.segment, min(q.stop, q.segment + 10_000)):
                    self._ledger(c, (q.space, number)).is_gone = True
            return
        if not isinstance(q, Capture | Write | Read):
            return
        ledger = self._ledger(c, (q.space, q.segment))
        if isinstance(m, SegmentTrimmed):
            if not ledger.may_be_gone:
                self._blame("store: a segment that nobody trimmed is gone", where)
        elif asked.is_gone and not (isinstance(m, Report) and not m.rows):
            self._blame("store: a trimmed segment is used again", f"{where}\nanswered {m}")
        elif isinstance(q, Capture):
            if isinstance(m, Promise):
                self._granted.setdefault((c.server, q.ballot), self.messages)
                self._promised.setdefault((c, raw), []).append((q.ballot, q))
            self._on_capture_answered(ledger, asked, q, m, where)
        elif isinstance(q, Write) and isinstance(m, Written):
            self._on_write_answered(ledger, asked, q, m, where)
        elif isinstance(q, Read) and isinstance(m, Report):
            end = q.spans[-1][1] if m.next == COMPLETE else m.next
            pages = [(lo, min(hi, end)) for lo, hi in q.spans if lo < end]
            found = (asked.moment, (q.space, q.segment), pages)
            self._spans.setdefault((c, raw), []).append(found)
            self._check_rows(ledger, asked, q.spans, m.rows, m.next, where)

    def _take(self, c: Connection, request_id: int, m: ServerMessage | None) -> _Asked | None:
        """The request that this answers: of several with one id, the first that it can be for."""
        waiting = self._under_way.get((c, request_id))
        if not waiting:
            return None
        for i, asked in enumerate(waiting):
            if m is None or _fits(asked.message, m):
                del waiting[i]
                return asked
        return None

    def _on_capture_answered(
        self, ledger: _Ledger, asked: _Asked, q: Capture, m: ServerMessage, where: str
    ) -> None:
        if isinstance(m, Reject):
            if m.promised not in ledger.ballots:
                self._blame("store: refused for a ballot that nobody has", f"{where}\n{m}")
            return
        if not isinstance(m, Promise):
            return
        after, top = _on_capture(asked.promises, q.start, q.stop, q.ballot)
        if after is asked.promises:
            self._blame(
                "store: a capture is granted below what was promised",
                f"{where}\npromised {show(top)} before",
            )
        self._check_rows(ledger, asked, [(q.start, q.stop)], m.rows, m.next, where)
        ledger.promise(q.start, q.stop, q.ballot)

    def _on_write_answered(
        self, ledger: _Ledger, asked: _Asked, q: Write, m: Written, where: str
    ) -> None:
        refused = {r.offset: r.promised for r in m.refused}
        for offset, value in zip(q.offsets, q.values, strict=True):
            if offset in refused:
                if refused[offset] not in ledger.ballots:
                    self._blame("store: refused for a ballot that nobody has", f"{where}\n{m}")
                continue
            held = ledger.held_at(asked.moment, offset)
            _, _, verdict = _on_write(asked.promises, held, offset, q.ballot, value)
            if verdict != ACCEPTED:
                self._blame(
                    "store: a write is accepted against a promise",
                    f"{where}\nat {offset}: promised {show(verdict)}, held {held}",
                )
            ledger.accept(self.messages, offset, q.ballot, value)

    def _check_rows(
        self,
        ledger: _Ledger,
        asked: _Asked,
        spans: Iterable[tuple[int, int]],
        rows: list[Row],
        following: int,
        where: str,
    ) -> None:
        """What was accepted for certain is reported, or something later; and nothing is made up."""
        told = {row.offset: row for row in rows}
        for row in rows:
            if row.value not in ledger.asked.get((row.offset, row.ballot), ()):
                self._blame("store: it reports what nobody wrote", f"{where}\n{row}")
        for offset in ledger.accepted:
            if following != COMPLETE and offset >= following:
                continue
            if not any(lo <= offset < hi for lo, hi in spans):
                continue
            held = ledger.held_at(asked.moment, offset)
            if not held.ballot:
                continue
            found = told.get(offset)
            if found is None or found.ballot < held.ballot:
                self._blame(
                    "store: what was accepted is not there any more",
                    f"{where}\nat {offset}: held {held}, reports {found}",
                )


def _allows(counted: tuple[Row | None, ...], beside: list[Row], value: bytes) -> bool:
    """Whether a captor may write the value that counts these reports, and has met other rows."""
    rows = [row for row in counted if row is not None]
    decided = {row.value for row in (*rows, *beside) if row.decided}
    if decided:
        return value in decided
    if not rows:
        return True
    top = max(row.ballot for row in rows)
    return value in {row.value for row in (*rows, *beside) if row.ballot >= top}


def _fits(request: ClientMessage, answer: ServerMessage) -> bool:
    """Whether the one can be an answer to the other."""
    if isinstance(answer, Promise | Reject):
        return isinstance(request, Capture)
    if isinstance(answer, Written):
        return isinstance(request, Write)
    if isinstance(answer, Report):
        return isinstance(request, Read)
    if isinstance(answer, Done):
        return isinstance(request, Trim)
    return True
