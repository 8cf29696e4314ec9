"""Deliberate mistakes in the core, each breaking one rule of safety, as patches while a test runs.

A mutation that nobody catches would be a hole in the checkers.  `SMALL` are caught by exploring
every interleaving of a small world, `LARGE` by random runs of the whole system.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

from explorer.actors import Begun, Reader, Trimmer, Wish
from explorer.small_world import Paxos, Plan

from wormspace.errors import CaptureLost
from wormspace.paxos import accept, acceptor, broadcast, prepare, quorum, reading
from wormspace.paxos.acceptor import ACCEPTED
from wormspace.paxos.ballot import above
from wormspace.paxos.messages import Row
from wormspace.paxos.ranges import Range, ballot_at, covers, overlay
from wormspace.registers.paxos import capture_check, listening
from wormspace.registers.paxos.client import PaxosRegisters
from wormspace.registers.paxos.listening import PartitionListener
from wormspace.registers.token import Token
from wormspace.server import acceptors, tables
from wormspace.server.node import Node
from wormspace.sim.campaign import Shape
from wormspace.sim.faults import FaultPlan
from wormspace.sim.mix import Mix
from wormspace.sim.network_options import Loss, NetworkOptions
from wormspace.space.space import Space

Patch = tuple[object, str, object]


@dataclass(frozen=True)
class Mutation:
    """What is broken (target, attribute, replacement), and the world that shows it."""

    patches: Callable[[], list[Patch]]
    plan: Plan | None = None
    shape: Shape | None = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The product with this mistake in it."""
        with ExitStack() as stack:
            for target, name, new in self.patches():
                stack.enter_context(mock.patch.object(target, name, new))
            yield


# ------------------------------------------------------------------ acceptors


def accept_below_the_promise() -> list[Patch]:
    def on_write(promises, row, offset, ballot, value):
        if ballot < row.ballot:
            return promises, row, row.ballot
        return promises, Row(offset, ballot, value), ACCEPTED

    return [(acceptors, "on_write", on_write)]


def accepting_does_not_raise_the_promise() -> list[Patch]:
    shipped = acceptor.on_write

    def on_write(promises, row, offset, ballot, value):
        _, row, verdict = shipped(promises, row, offset, ballot, value)
        return promises, row, verdict

    return [(acceptors, "on_write", on_write)]


def forget_promises_on_restart() -> list[Patch]:
    shipped = Paxos.restart

    def restart(self, store):
        return tuple(item for item in shipped(self, store) if item[0] != tables.PROMISES)

    return [(Paxos, "restart", restart)]


def grant_a_capture_on_part_of_its_range() -> list[Patch]:
    def on_capture(promises, lo, hi, ballot):
        top = ballot_at(promises, lo)
        if ballot > top:
            return overlay(promises, Range(lo, hi, ballot)), top
        return promises, top

    return [(acceptors, "on_capture", on_capture)]


def grant_a_capture_at_the_promised_ballot_or_below() -> list[Patch]:
    def on_capture(promises, lo, hi, ballot):
        return overlay(promises, Range(lo, hi, ballot)), acceptor.highest(promises, lo, hi)

    return [(acceptors, "on_capture", on_capture)]


def believe_a_decided_mark_for_lower_ballots() -> list[Patch]:
    return [
        (acceptor, "decided_step", lambda known, mark, offset, _: known or covers(mark, offset))
    ]


# ------------------------------------------------------------------ proposers


def ignore_the_higher_accepted_value() -> list[Patch]:
    return [(prepare, "better", lambda a, b: a if a.decided or a.ballot < b.ballot else b)]


def capture_with_a_minority() -> list[Patch]:
    return [(prepare, "is_quorum", lambda mask, servers: mask != 0)]


def count_one_acceptor_twice() -> list[Patch]:
    def on_written(w, server, refused):
        if w.answered >> server & 1 and w.answered != quorum.everyone(w.servers):
            server = next(i for i in itertools.count() if not w.answered >> i & 1)
        return shipped(w, server, refused)

    shipped = accept.on_written
    return [(accept, "on_written", on_written)]


def count_a_refusal_as_an_acceptance() -> list[Patch]:
    shipped = accept.verdict

    def verdict(servers, answered, refused_by):
        return shipped(servers, answered, refused_by & (refused_by - 1))

    return [(accept, "verdict", verdict)]


def trust_one_servers_undecided_word() -> list[Patch]:
    return [(reading, "is_known", lambda found, servers: True)]


def read_empty_from_one_server() -> list[Patch]:
    return [(reading, "is_quorum", lambda mask, servers: mask != 0)]


def help_with_a_different_ballot() -> list[Patch]:
    return [(Reader, "helping", lambda self, row: above(row.ballot, self.id))]


def tell_of_a_trim_before_it_is_decided() -> list[Patch]:
    shipped = Trimmer.begins

    def begins(self, state, chosen):
        return [
            self.ask(Begun(phase="telling"), "begins", Wish("trim"))
            for _ in shipped(self, state, chosen)
        ]

    return [(Trimmer, "begins", begins)]


def a_trim_returns_when_one_server_knows() -> list[Patch]:
    return [(broadcast, "is_quorum", lambda mask, servers: mask != 0)]


# ------------------------------------------------------------------ the whole system


def answer_before_the_commit() -> list[Patch]:
    async def commit(self, queued, **how):
        answered = []

        def settle(queued, answers):
            if not answered:
                shipped_answer(self, queued, answers)
                answered.append(True)

        handle = self._handle

        def early(batch, queued):
            answers, news = handle(batch, queued)
            settle(queued, answers)
            return answers, news

        self._handle, self._answer = early, settle
        try:
            await shipped(self, queued, **how)
        finally:
            # A commit that retries within itself has taken them off already.
            vars(self).pop("_handle", None)
            vars(self).pop("_answer", None)

    shipped, shipped_answer = Node._commit, Node._answer
    return [(Node, "_commit", commit)]


def treat_a_rejected_help_as_failed() -> list[Patch]:
    async def help_(self, segment_name, ballot, rows, deadline):
        results = await self._write_rows(segment_name, ballot, rows, deadline)
        for result in results.values():
            if result is not None and not isinstance(result, CaptureLost):
                raise result
        return {offset: rows[offset] for offset, result in results.items() if result is None}

    return [(PaxosRegisters, "_help", help_)]


def capture_without_completing_what_it_met() -> list[Patch]:
    async def complete(self, promised, deadline):
        return True

    return [(PaxosRegisters, "_complete", complete)]


def a_token_forgets_what_was_taken() -> list[Patch]:
    return [(Token, "is_free", Token.covers)]


def write_two_values_under_one_token() -> list[Patch]:
    shipped_write = acceptor.on_write

    def on_write(promises, row, offset, ballot, value):
        if ballot == row.ballot and ballot >= ballot_at(promises, offset):
            return promises, Row(offset, ballot, value), ACCEPTED
        return shipped_write(promises, row, offset, ballot, value)

    shipped = PaxosRegisters._issue

    def issue(self, stream, offset, value, deadline):
        stream.issued.open.pop(offset, None)
        stream.issued.doubt.pop(offset, None)
        return shipped(self, stream, offset, value, deadline)

    return [(acceptors, "on_write", on_write), (PaxosRegisters, "_issue", issue)]


def let_a_trimmed_segment_come_back() -> list[Patch]:
    shipped = acceptors.sweep

    def sweep(batch, limit):
        for key, _ in acceptors._first_garbage(batch):
            batch.delete(tables.TRIMMED, key)
        return shipped(batch, limit)

    return [(acceptors, "sweep", sweep)]


def answer_a_trimmed_segment_as_empty() -> list[Patch]:
    return [(tables, "is_trimmed", lambda view, space, segment: False)]


def a_capture_stands_by_one_servers_word() -> list[Patch]:
    return [(capture_check, "is_quorum", lambda mask, servers: mask != 0)]


def drop_a_listeners_events_on_reconnect() -> list[Patch]:
    def say_gap(self):
        if not self._gap_at:
            shipped(self)

    shipped = PartitionListener._say_gap
    return [(PartitionListener, "_say_gap", say_gap)]


def tell_a_listener_what_one_server_accepted() -> list[Patch]:
    return [(listening, "is_quorum", lambda mask, servers: mask != 0)]


def both_allocators_win() -> list[Patch]:
    async def try_alloc(self, number, raw, deadline):
        await shipped(self, number, raw, deadline)
        return True

    shipped = Space._try_alloc
    return [(Space, "_try_alloc", try_alloc)]


ONE_REGISTER = Plan(reader=None, marks=False)
READ = Plan(attempts=1, marks=False)
TRIM = Plan(((0, 1),), attempts=1, trims=True)

SMALL = {
    "accept below the promise": Mutation(accept_below_the_promise, ONE_REGISTER),
    "accepting does not raise the promise": Mutation(
        accepting_does_not_raise_the_promise,
        Plan(((0, 1), (0, 1), (0, 1)), attempts=1, reader=None, marks=False),
    ),
    "forget the promises on restart": Mutation(forget_promises_on_restart, ONE_REGISTER),
    "grant a capture on part of its range": Mutation(
        grant_a_capture_on_part_of_its_range, Plan(((0, 2), (1, 2)), reader=None, marks=False)
    ),
    "grant a capture below the promise": Mutation(
        grant_a_capture_at_the_promised_ballot_or_below, ONE_REGISTER
    ),
    "believe a decided mark for lower ballots": Mutation(
        believe_a_decided_mark_for_lower_ballots, Plan(reader=None)
    ),
    "ignore a higher accepted value on capture": Mutation(
        ignore_the_higher_accepted_value,
        Plan(((0, 1), (0, 1), (0, 1)), attempts=1, reader=None, marks=False),
    ),
    "capture with a minority": Mutation(capture_with_a_minority, ONE_REGISTER),
    "count one acceptor twice": Mutation(count_one_acceptor_twice, ONE_REGISTER),
    "count a refusal as an acceptance": Mutation(count_a_refusal_as_an_acceptance, ONE_REGISTER),
    "help with a different ballot": Mutation(help_with_a_different_ballot, READ),
    "a read trusts one server's undecided word": Mutation(trust_one_servers_undecided_word, READ),
    "a read takes one server for a majority": Mutation(read_empty_from_one_server, READ),
    "tell of a trim before it is decided": Mutation(tell_of_a_trim_before_it_is_decided, TRIM),
    "a trim returns when one server knows": Mutation(a_trim_returns_when_one_server_knows, TRIM),
    "a trimmed segment answers as empty": Mutation(answer_a_trimmed_segment_as_empty, TRIM),
    "a trimmed segment comes back": Mutation(let_a_trimmed_segment_come_back, TRIM),
}

_BUSY = Shape(duration_s=4.0, client_crash_every_s=1.0)
_LISTEN = Shape(duration_s=4.0, listeners=4)
_CUT_OFF = Shape(
    duration_s=3.0,
    listeners=4,
    mix=Mix(calls={"write": 20, "read": 5, "alloc": 2}),
    faults=FaultPlan(every_s=(0.01, 0.15), lasting_s=(0.02, 0.4), max_hurt=None),
)
_LOSSY = NetworkOptions(framed=True, loss=Loss(drop=0.15, duplicate=0.05, delay=0.2))
_HALF = Shape(
    duration_s=6.0,
    lossy=True,
    network=_LOSSY,
    mix=Mix(size=4, calls={"write": 20, "reuse": 20, "read": 20, "settle": 5, "trim": 2}),
)
_HOLD = Shape(duration_s=4.0, mix=Mix(size=4, calls={"write": 20, "holds": 20, "read": 5}))
_TRIM = Shape(duration_s=4.0, mix=Mix(size=4))

LARGE = {
    "answer before the commit": Mutation(answer_before_the_commit, shape=_BUSY),
    "treat a rejected write as failed": Mutation(treat_a_rejected_help_as_failed, shape=_BUSY),
    "capture without completing what it met": Mutation(
        capture_without_completing_what_it_met, shape=_BUSY
    ),
    "a token forgets what was taken": Mutation(a_token_forgets_what_was_taken, shape=_BUSY),
    "write two values under one token": Mutation(write_two_values_under_one_token, shape=_HALF),
    "let a trimmed segment come back": Mutation(let_a_trimmed_segment_come_back, shape=_TRIM),
    "answer a trimmed segment as empty": Mutation(answer_a_trimmed_segment_as_empty, shape=_TRIM),
    "drop a listener's events on reconnect": Mutation(
        drop_a_listeners_events_on_reconnect, shape=_CUT_OFF
    ),
    "tell a listener what one server accepted": Mutation(
        tell_a_listener_what_one_server_accepted, shape=_LISTEN
    ),
    "a capture stands by one server's word": Mutation(
        a_capture_stands_by_one_servers_word, shape=_HOLD
    ),
    "two allocators win one number": Mutation(both_allocators_win, shape=_BUSY),
}
