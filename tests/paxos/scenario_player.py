"""Plays a protocol scenario written as text: proposers and acceptors without a network.

A scenario is a list of blocks: a command, `----`, and what comes of it.  The commands:

    servers N
    capture P LO HI         P captures [LO, HI) under a ballot above all it has seen
    write P OFFSET VALUE    P writes under the ballot of its capture; `unsafe P ...` without one
    complete P              P writes what its capture met half-written, under its own ballot
    read P LO HI FIRST      P reads, asking server FIRST first
    help P                  P re-sends the half-written values its read met, as they are
    widen P / retry P       P's timer: ask everybody / send again what was not answered
    giveup P                P's timer, after a refusal
    deliver P S...          the oldest message from P to each server S, and its answer to P
    request P S / reply P S one half of that
    drop P S / repeat P S   lose, or deliver twice, the oldest message from P to S
    lose P                  lose everything that is under way from or to P
    decided P               P tells everybody what its write decided
    forget S                server S loses all it had (it must not; to show why)
    state                   what each server holds
"""

from __future__ import annotations

from collections import defaultdict

from wormspace.paxos import accept, prepare, reading
from wormspace.paxos.accept import Accept
from wormspace.paxos.acceptor import ACCEPTED, is_decided, on_capture, on_decided, on_write
from wormspace.paxos.ballot import UNSAFE, above, show
from wormspace.paxos.messages import (
    COMPLETE,
    Capture,
    Decided,
    Promise,
    Read,
    RefusedWrite,
    Reject,
    Report,
    Row,
    Write,
    Written,
)
from wormspace.paxos.prepare import Prepare
from wormspace.paxos.reading import Reading

SPACE, SEGMENT = "s", 0


class Acceptor:
    """One server: the handlers, and the state they are given."""

    def __init__(self) -> None:
        self.promises: tuple = ()
        self.rows: dict[int, Row] = {}
        self.marks: tuple = ()

    def _report(self, spans):
        return [
            Row(o, r.ballot, r.value, is_decided(self.marks, o, r.ballot))
            for o, r in sorted(self.rows.items())
            if any(lo <= o < hi for lo, hi in spans)
        ]

    def handle(self, m):
        if isinstance(m, Capture):
            new, top = on_capture(self.promises, m.start, m.stop, m.ballot)
            if new is self.promises:
                return Reject(top)
            self.promises = new
            return Promise(self._report([(m.start, m.stop)]), COMPLETE)
        if isinstance(m, Write):
            refused = []
            for o, value in zip(m.offsets, m.values, strict=True):
                row = self.rows.get(o, Row(o))
                self.promises, row, verdict = on_write(self.promises, row, o, m.ballot, value)
                if verdict == ACCEPTED:
                    self.rows[o] = row
                else:
                    refused.append(RefusedWrite(o, verdict))
            return Written(refused)
        if isinstance(m, Read):
            return Report(self._report(m.spans), COMPLETE)
        for lo, hi in m.spans:
            self.marks = on_decided(self.marks, lo, hi, m.ballot)
        return None

    def __str__(self) -> str:
        promises = [
            f"[{r.lo},{r.hi}) {show(r.ballot)}" for r in sorted(self.promises, key=lambda r: r.lo)
        ]
        return (
            f"promised {', '.join(promises) or '-'}; accepted {show_rows(self._report([(0, 99)]))}"
        )


def show_rows(rows) -> str:
    return (
        ", ".join(
            f"{r.offset}={r.value.decode()}@{show(r.ballot)}{'!' if r.decided else ''}"
            for r in rows
        )
        or "-"
    )


def show_message(m) -> str:
    if isinstance(m, Capture):
        return f"Capture [{m.start},{m.stop}) {show(m.ballot)}"
    if isinstance(m, Write):
        pairs = zip(m.offsets, m.values, strict=True)
        return f"Write {', '.join(f'{o}={v.decode()}' for o, v in pairs)} {show(m.ballot)}"
    if isinstance(m, Read):
        return f"Read {' '.join(f'[{lo},{hi})' for lo, hi in m.spans)}"
    if isinstance(m, Decided):
        return f"Decided {' '.join(f'[{lo},{hi})' for lo, hi in m.spans)} {show(m.ballot)}"
    if isinstance(m, Promise | Report):
        return f"{type(m).__name__} {show_rows(m.rows)}"
    if isinstance(m, Reject):
        return f"Reject {show(m.promised)}"
    if isinstance(m, Written):
        refused = ", ".join(f"{r.offset} ({show(r.promised)})" for r in m.refused)
        return f"Written{', refused ' + refused if refused else ''}"
    raise TypeError(m)


class Proposer:
    def __init__(self, name: str) -> None:
        self.name = name
        self.id = name.encode().ljust(8, b"\0")
        self.seen = UNSAFE
        self.capture = None
        self.machine = None

    def on(self, server: int, m) -> tuple:
        machine, sends = self.machine, ()
        if isinstance(machine, Prepare):
            if isinstance(m, Promise):
                machine, sends = prepare.on_promise(machine, server, m)
            elif isinstance(m, Reject):
                machine = prepare.on_reject(machine, server, m.promised)
            elif isinstance(m, Report):
                machine, sends = prepare.on_report(machine, server, m)
            self.capture = machine
            self.seen = max(self.seen, machine.top, machine.ballot)
        elif isinstance(machine, Accept) and isinstance(m, Written):
            machine = accept.on_written(machine, server, m.refused)
        elif isinstance(machine, Reading) and isinstance(m, Report):
            machine, sends = reading.on_report(machine, server, m)
        self.machine = machine
        return sends

    def __str__(self) -> str:
        m = self.machine
        if isinstance(m, Prepare):
            text = m.phase
            if m.phase == prepare.PROMISED:
                met, half = show_rows(prepare.reported(m)), show_rows(prepare.undecided(m))
                text += f"; met {met}; to complete {half}"
            return text
        if isinstance(m, Accept):
            lost = {t.offset for t in accept.lost(m)}
            open_ = {t.offset for t in accept.contested(m)}
            if m.answered.bit_count() <= m.servers // 2:
                return "writing"
            words = [
                f"{o} {'lost' if o in lost else 'open' if o in open_ else 'decided'}"
                for o in m.offsets
            ]
            return ", ".join(words)
        if m.phase != reading.ANSWERED:
            return m.phase
        known = {f.row.offset: f for f in m.found}
        words = []
        for lo, hi in m.spans:
            for o in range(lo, hi):
                f = known.get(o)
                if f is None:
                    words.append(f"{o} empty")
                elif reading.is_known(f, m.servers):
                    words.append(f"{o}={f.row.value.decode()}")
                else:
                    words.append(f"{o} half-written ({show_rows([f.row])})")
        return "answered: " + ", ".join(words)


class Player:
    def __init__(self) -> None:
        self.acceptors: list[Acceptor] = []
        self.proposers: dict[str, Proposer] = {}
        self.requests: dict = defaultdict(list)
        self.replies: dict = defaultdict(list)
        self.out: list[str] = []

    def play(self, line: str) -> str:
        self.out = []
        command, *arguments = line.split()
        getattr(self, f"do_{command}")(*arguments)
        return "\n".join(self.out) or "ok"

    def p(self, name: str) -> Proposer:
        return self.proposers.setdefault(name, Proposer(name))

    def send(self, name: str, sends) -> None:
        for s in sends:
            self.requests[name, s.server].append(s.message)
            self.out.append(f"{name} -> s{s.server}  {show_message(s.message)}")

    def do_servers(self, n: str) -> None:
        self.acceptors = [Acceptor() for _ in range(int(n))]

    def do_capture(self, name: str, lo: str, hi: str) -> None:
        p = self.p(name)
        p.seen = above(p.seen, p.id)
        p.machine = p.capture = Prepare(
            len(self.acceptors), SPACE, SEGMENT, int(lo), int(hi), p.seen
        )
        self.send(name, prepare.begin(p.machine))

    def _write(self, name: str, ballot: bytes, rows: dict[int, bytes]) -> None:
        p = self.p(name)
        p.machine = Accept(
            len(self.acceptors), SPACE, SEGMENT, ballot, tuple(rows), tuple(rows.values())
        )
        self.send(name, accept.begin(p.machine))

    def do_write(self, name: str, offset: str, value: str) -> None:
        self._write(name, self.p(name).capture.ballot, {int(offset): value.encode()})

    def do_unsafe(self, name: str, offset: str, value: str) -> None:
        self._write(name, UNSAFE, {int(offset): value.encode()})

    def do_complete(self, name: str) -> None:
        c = self.p(name).capture
        self._write(name, c.ballot, {r.offset: r.value for r in prepare.undecided(c)})

    def do_read(self, name: str, lo: str, hi: str, first: str) -> None:
        p = self.p(name)
        reader = Reading(
            len(self.acceptors), SPACE, SEGMENT, ((int(lo), int(hi)),), int(first.lstrip("s"))
        )
        p.machine, sends = reading.begin(reader)
        self.send(name, sends)

    def do_help(self, name: str) -> None:
        m = self.p(name).machine
        half = [f.row for f in m.found if not reading.is_known(f, m.servers)]
        self._write(name, half[0].ballot, {r.offset: r.value for r in half})

    def do_widen(self, name: str) -> None:
        p = self.p(name)
        p.machine, sends = reading.widen(p.machine)
        self.send(name, sends)

    def do_retry(self, name: str) -> None:
        machine = self.p(name).machine
        module = prepare if isinstance(machine, Prepare) else accept
        self.send(name, module.begin(machine))

    def do_giveup(self, name: str) -> None:
        p = self.p(name)
        p.machine = p.capture = prepare.give_up(p.machine)
        self.out.append(f"{name}: {p}")

    def do_deliver(self, name: str, *servers: str) -> None:
        for server in servers:
            self.do_request(name, server)
            if self.replies[name, int(server[1:])]:
                self.do_reply(name, server)

    def do_request(self, name: str, server: str) -> None:
        at = name, int(server[1:])
        self._handle(at, self.requests[at].pop(0))

    def _handle(self, at, message) -> None:
        reply = self.acceptors[at[1]].handle(message)
        if reply is not None:
            self.replies[at].append(reply)

    def do_reply(self, name: str, server: str) -> None:
        at = name, int(server[1:])
        reply = self.replies[at].pop(0)
        self.out.append(f"{name} <- {server}  {show_message(reply)}")
        self.send(name, self.p(name).on(at[1], reply))
        self.out.append(f"{name}: {self.p(name)}")

    def do_drop(self, name: str, server: str) -> None:
        at = name, int(server[1:])
        (self.requests[at] or self.replies[at]).pop(0)

    def do_lose(self, name: str) -> None:
        for at in [at for at in (*self.requests, *self.replies) if at[0] == name]:
            self.requests[at].clear()
            self.replies[at].clear()

    def do_repeat(self, name: str, server: str) -> None:
        at = name, int(server[1:])
        self.requests[at].insert(0, self.requests[at][0])

    def do_decided(self, name: str) -> None:
        w = self.p(name).machine
        spans = [(o, o + 1) for o in w.offsets]
        for acceptor in self.acceptors:
            acceptor.handle(Decided(SPACE, SEGMENT, w.ballot, spans))

    def do_forget(self, server: str) -> None:
        self.acceptors[int(server[1:])] = Acceptor()

    def do_state(self) -> None:
        for i, acceptor in enumerate(self.acceptors):
            self.out.append(f"s{i}: {acceptor}")


def replay(text: str) -> str:
    """The scenario with what its commands bring today."""
    player = Player()
    out = []
    for block in text.strip().split("\n\n"):
        lines = [line for line in block.split("\n") if line]
        comments = [line for line in lines if line.startswith("#")]
        commands = []
        for line in lines:
            if line == "----":
                break
            if not line.startswith("#"):
                commands.append(line)
        if not commands:
            out.append("\n".join(comments))
            continue
        results = [player.play(line) for line in commands]
        out.append("\n".join([*comments, *commands, "----", *results]))
    return "\n\n".join(out) + "\n"
