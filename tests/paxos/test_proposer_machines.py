"""The proposer machines alone: pages, repeated and reordered answers, and random schedules."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenario_player import Acceptor

from wormspace.paxos import accept, broadcast, prepare, reading
from wormspace.paxos.accept import DECIDED, LOST, OPEN, Accept
from wormspace.paxos.ballot import UNSAFE, above, ballot
from wormspace.paxos.broadcast import Broadcast
from wormspace.paxos.messages import (
    COMPLETE,
    Capture,
    Promise,
    Read,
    RefusedWrite,
    Reject,
    Report,
    Row,
    Trim,
    Write,
    Written,
)
from wormspace.paxos.prepare import PREEMPTED, PROMISED, PROMISING, ClashingReports, Prepare
from wormspace.paxos.reading import ANSWERED, ASKING_ALL, ASKING_ONE, Reading

B1, B2, B3 = (ballot(n, b"proposer") for n in (1, 2, 3))


def row(offset, b, value=b"v", decided=False):
    return Row(offset, b, value, decided)


def captured(servers=3, stop=100, b=B2):
    return Prepare(servers, "s", 0, 0, stop, b)


# ---------------------------------------------------------------------------- capturing


def test_a_capture_is_promised_by_a_majority_and_not_before():
    c, _ = prepare.on_promise(captured(5), 0, Promise([], COMPLETE))
    c, _ = prepare.on_promise(c, 3, Promise([], COMPLETE))
    assert c.phase == PROMISING
    c, _ = prepare.on_promise(c, 4, Promise([], COMPLETE))
    assert c.phase == PROMISED


def test_one_server_promising_twice_is_one_server():
    c = captured()
    for _ in range(3):
        c, _ = prepare.on_promise(c, 1, Promise([], COMPLETE))
    assert c.phase == PROMISING


def test_a_promise_counts_only_when_its_last_page_is_there():
    c, sends = prepare.on_promise(captured(), 0, Promise([row(1, B1)], 10))
    assert [(s.server, s.message) for s in sends] == [(0, Read("s", 0, [(10, 100)]))]
    c, _ = prepare.on_promise(c, 1, Promise([], COMPLETE))
    assert c.phase == PROMISING
    c, sends = prepare.on_report(c, 0, Report([row(11, B1)], 20))
    assert [s.message for s in sends] == [Read("s", 0, [(20, 100)])]
    c, _ = prepare.on_report(c, 0, Report([row(21, B1)], COMPLETE))
    assert c.phase == PROMISED
    assert [r.offset for r in prepare.undecided(c)] == [1, 11, 21]


def test_a_page_of_a_server_that_did_not_promise_is_ignored():
    c, sends = prepare.on_report(captured(), 0, Report([row(1, B1)], COMPLETE))
    assert (c, sends) == (captured(), ())


def test_a_page_with_a_higher_ballot_unmakes_the_promise():
    """The server has promised somebody else since: its report is not that of the promise."""
    c, _ = prepare.on_promise(captured(), 0, Promise([], 10))
    c, _ = prepare.on_report(c, 0, Report([row(11, B3)], COMPLETE))
    assert c.phase == PROMISING
    assert c.top == B3
    c = prepare.on_reject(c, 1, B3)
    assert c.phase == PREEMPTED


def test_a_lost_page_is_asked_for_again_and_the_promise_is_not():
    c, _ = prepare.on_promise(captured(), 0, Promise([], 10))
    kinds = {(s.server, type(s.message)) for s in prepare.begin(c)}
    assert kinds == {(0, Read), (1, Capture), (2, Capture)}


def test_a_capture_is_preempted_when_no_majority_is_left_to_promise():
    c = prepare.on_reject(captured(), 0, B3)
    c = prepare.on_reject(c, 0, B3)
    assert c.phase == PROMISING
    c = prepare.on_reject(c, 2, B2)
    assert (c.phase, c.top) == (PREEMPTED, B3)


def test_giving_up_needs_a_refusal():
    assert prepare.give_up(captured()).phase == PROMISING
    assert prepare.give_up(prepare.on_reject(captured(), 0, B3)).phase == PREEMPTED


def test_the_highest_ballot_is_completed_and_the_decided_is_not():
    c, _ = prepare.on_promise(
        captured(b=B3), 0, Promise([row(0, B1, b"old"), row(1, B1, b"a", True)], COMPLETE)
    )
    c, _ = prepare.on_promise(c, 1, Promise([row(0, B2, b"new"), row(1, B1, b"a")], COMPLETE))
    assert prepare.undecided(c) == (row(0, B2, b"new"),)
    assert [r.value for r in prepare.reported(c)] == [b"new", b"a"]


@pytest.mark.parametrize("decided", [False, True])
def test_two_values_under_one_ballot_are_never_passed_over(decided):
    c, _ = prepare.on_promise(captured(), 0, Promise([row(0, B1, b"x", decided)], COMPLETE))
    with pytest.raises(ClashingReports):
        prepare.on_promise(c, 1, Promise([row(0, B1, b"y")], COMPLETE))


# ---------------------------------------------------------------------------- writing


def test_each_register_of_a_write_has_a_verdict_of_its_own():
    w = Accept(3, "s", 0, B1, (0, 1, 2), (b"a", b"b", b"c"))
    w = accept.on_written(w, 0, [RefusedWrite(1, B2)])
    assert not accept.finished(w)
    w = accept.on_written(w, 1, [RefusedWrite(1, B3), RefusedWrite(2, B2)])
    assert not accept.finished(w)  # 2 was accepted once and refused once
    assert [t.offset for t in accept.lost(w)] == [1]
    assert [t.offset for t in accept.contested(w)] == [2]
    w = accept.on_written(w, 2, [])
    assert accept.finished(w)
    assert [(t.offset, t.promised) for t in accept.lost(w)] == [(1, B3)]
    assert accept.obstacle(w) == B3


def test_an_answer_that_comes_twice_counts_once():
    w = Accept(3, "s", 0, B1, (0,), (b"a",))
    w = accept.on_written(accept.on_written(w, 0, []), 0, [])
    assert not accept.finished(w)
    assert {s.server for s in accept.begin(w)} == {1, 2}


@pytest.mark.parametrize(
    ("answered", "refused", "fate"),
    [
        (0b011, 0b000, DECIDED),
        (0b011, 0b001, OPEN),
        (0b011, 0b011, LOST),
        (0b111, 0b001, DECIDED),
        (0b111, 0b110, LOST),
        (0b001, 0b000, OPEN),
    ],
)
def test_a_register_is_decided_by_a_majority_that_accepted_it(answered, refused, fate):
    assert accept.verdict(3, answered, refused) == fate


# ---------------------------------------------------------------------------- reading


def begun(spans=((0, 4),), servers=3):
    r, _ = reading.begin(Reading(servers, "s", 0, tuple(spans), 0))
    return r


def test_one_servers_word_is_enough_for_what_it_knows_to_be_decided():
    r, sends = reading.on_report(begun([(0, 1)]), 0, Report([row(0, B1, b"v", True)], COMPLETE))
    assert (r.phase, sends) == (ANSWERED, ())


def test_only_what_is_not_known_is_asked_of_everybody():
    report = Report([row(1, B1, b"v", True), row(2, B1)], COMPLETE)
    r, sends = reading.on_report(begun(), 0, report)
    assert r.phase == ASKING_ALL
    assert [(s.server, s.message.spans) for s in sends] == [
        (1, [(0, 1), (2, 4)]),
        (2, [(0, 1), (2, 4)]),
    ]


def test_empty_needs_a_majority():
    r, _ = reading.on_report(begun(), 0, Report([], COMPLETE))
    assert r.phase == ASKING_ALL
    r, _ = reading.on_report(r, 0, Report([], COMPLETE))
    assert r.phase == ASKING_ALL
    r, _ = reading.on_report(r, 2, Report([], COMPLETE))
    assert (r.phase, r.found) == (ANSWERED, ())


def test_the_same_ballot_at_a_majority_is_decided_and_two_ballots_are_not():
    r = begun([(0, 2)])
    r, _ = reading.on_report(r, 0, Report([row(0, B1), row(1, B1)], COMPLETE))
    r, _ = reading.on_report(r, 1, Report([row(0, B1), row(1, B2, b"w")], COMPLETE))
    assert r.phase == ANSWERED
    assert [reading.is_known(f, 3) for f in r.found] == [True, False]
    assert r.found[1].row == row(1, B2, b"w")


def test_a_report_in_pages_counts_when_it_is_complete():
    r, sends = reading.on_report(begun([(0, 2), (5, 9)]), 0, Report([row(1, B1)], 6))
    assert [s.message.spans for s in sends] == [[(6, 9)]]
    assert r.phase == ASKING_ONE
    r, _ = reading.on_report(r, 0, Report([row(8, B1, b"v", True)], COMPLETE))
    assert r.phase == ASKING_ALL
    assert r.open == ((0, 2), (5, 8))


def test_a_slow_first_server_is_passed_over():
    r, sends = reading.widen(begun())
    assert {s.server for s in sends} == {0, 1, 2}
    r, _ = reading.on_report(r, 1, Report([], COMPLETE))
    r, _ = reading.on_report(r, 2, Report([], COMPLETE))
    assert r.phase == ANSWERED


def test_two_values_under_one_ballot_are_never_read():
    r, _ = reading.on_report(begun(), 0, Report([row(0, B1, b"x")], COMPLETE))
    with pytest.raises(ClashingReports):
        reading.on_report(r, 1, Report([row(0, B1, b"y")], COMPLETE))


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), max_size=5),
    st.sets(st.integers(0, 40)),
)
def test_spans_without_offsets_are_what_sets_say(gaps, offsets):
    spans, at = [], 0
    for gap, size in gaps:
        spans.append((at + gap, at + gap + size))
        at += gap + size
    left = reading.without(tuple(spans), sorted(offsets))
    assert {o for lo, hi in left for o in range(lo, hi)} == {
        o for lo, hi in spans for o in range(lo, hi)
    } - offsets
    assert all(lo < hi for lo, hi in left)
    assert list(left) == sorted(left)


def test_telling_ends_with_a_majority():
    t = Broadcast(3, Trim("s", 0, 1))
    t = broadcast.on_done(broadcast.on_done(t, 1), 1)
    assert not broadcast.finished(t)
    assert {s.server for s in broadcast.begin(t)} == {0, 2}
    assert broadcast.finished(broadcast.on_done(t, 0))


# ---------------------------------------------------------------------------- random schedules


class Client:
    """Captures, completes and writes one register, whatever happens to its messages."""

    def __init__(self, name, servers):
        self.id = name.encode().ljust(8, b"\0")
        self.value = name.encode()
        self.servers = servers
        self.seen = UNSAFE
        self.operation = 0
        self.step_capture()

    def step_capture(self):
        self.operation += 1
        self.seen = above(self.seen, self.id)
        self.machine = Prepare(self.servers, "s", 0, 0, 1, self.seen)
        return prepare.begin(self.machine)

    def on(self, server, m, decided):
        """An answer; returns what to send next.  Decided values go into `decided`."""
        if isinstance(self.machine, Prepare):
            if isinstance(m, Promise):
                self.machine, _ = prepare.on_promise(self.machine, server, m)
            elif isinstance(m, Reject):
                self.machine = prepare.on_reject(self.machine, server, m.promised)
            if self.machine.phase == PREEMPTED:
                self.seen = max(self.seen, self.machine.top)
                return self.step_capture()
            if self.machine.phase == PROMISED:
                half = prepare.undecided(self.machine)
                value = half[0].value if half else self.value
                self.operation += 1
                self.machine = Accept(self.servers, "s", 0, self.machine.ballot, (0,), (value,))
                return accept.begin(self.machine)
        elif isinstance(m, Written):
            self.machine = accept.on_written(self.machine, server, m.refused)
            if accept.finished(self.machine):
                if not accept.lost(self.machine):
                    decided.add(self.machine.values[0])
                self.seen = max(self.seen, accept.obstacle(self.machine))
                return self.step_capture()
        return ()


def run_schedule(seed, servers, clients, steps):
    """The values decided in a random schedule that loses, repeats and reorders messages."""
    rng = random.Random(seed)
    acceptors = [Acceptor() for _ in range(servers)]
    players = [Client(f"c{i}", servers) for i in range(clients)]
    flying, decided, history = [], set(), [{} for _ in range(servers)]

    def send(player, sends):
        flying.extend(("up", player, players[player].operation, s.server, s.message) for s in sends)

    for i, p in enumerate(players):
        send(i, prepare.begin(p.machine))
    for _ in range(steps):
        if not flying:
            break
        at = rng.randrange(len(flying))
        way, player, operation, server, m = flying[at]
        if rng.random() > 0.1:
            flying.pop(at)  # else it is delivered again some time
        if rng.random() < 0.1:
            continue  # lost
        if way == "up":
            reply = acceptors[server].handle(m)
            if isinstance(m, Write) and not reply.refused:
                history[server][m.ballot] = m.values[0]
            flying.append(("down", player, operation, server, reply))
        elif operation == players[player].operation:
            send(player, players[player].on(server, m, decided))
        if rng.random() < 0.05:
            send(player, players[player].step_capture())
    by_ballot = {}
    for server in history:
        for b, value in server.items():
            by_ballot.setdefault(b, []).append(value)
    for values in by_ballot.values():
        assert len(set(values)) == 1, f"seed {seed}: two values under one ballot"
        if 2 * len(values) > servers:
            decided.add(values[0])
    return decided


@given(st.integers(0, 1 << 32), st.sampled_from([1, 3, 5]), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_no_schedule_decides_two_values(seed, servers, clients):
    assert len(run_schedule(seed, servers, clients, 400)) <= 1


def test_schedules_do_decide():
    decided = [run_schedule(seed, 3, 3, 400) for seed in range(30)]
    assert sum(map(bool, decided)) > 15


def test_the_check_of_schedules_can_fail(monkeypatch):
    """Were the highest ballot not completed, some schedule would decide two values."""
    monkeypatch.setattr(prepare, "undecided", lambda c: ())
    assert any(len(run_schedule(seed, 3, 3, 400)) > 1 for seed in range(60))


def test_pages_merged_part_by_part_are_what_merging_them_at_once_gives():
    rng = random.Random(3)
    for size in (1, 3, 4096):
        pages = [
            [row(o, rng.choice((B1, B2)), b"v", rng.random() < 0.3) for o in sorted(chosen)]
            for chosen in (rng.sample(range(40), rng.randrange(20)) for _ in range(30))
        ]
        parts, whole = (), ()
        for page in pages:
            parts, whole = prepare.absorb(parts, page, size), prepare.merge(whole, page)
        assert tuple(r for _, part in parts for r in part) == whole
        assert all(r.offset // size == at for at, part in parts for r in part)
