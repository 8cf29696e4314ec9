"""What each message costs a server as what it holds grows: counted in lines executed."""

import asyncio

import pytest
from nodes import Port, settled

from inprocess import content
from scaling import assert_growth
from wormspace.knobs import turned
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import Capture, Decided, Read, Trim, Write
from wormspace.server import node, tables
from wormspace.server.counters import Counters
from wormspace.server.listeners import Listeners
from wormspace.server.node import Node
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import (
    Accepted,
    Failed,
    Listen,
    Spaces,
    Status,
    TrimNotice,
    Trims,
    Unlisten,
)

SIZES = [100, 200, 400]
LOGARITHM = 0.3


def rounds(number):
    return ballot(number, b"proposer")


@pytest.fixture(autouse=True)
def no_timers(monkeypatch):
    """Marks are saved when a test says so, not by the clock."""
    monkeypatch.setattr(node, "MARKS_SAVE_S", 1e6)


class World:
    """A node that can be asked from code that counts."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.port = Port()
        self.engine = MemoryEngine()
        self.node = self.run(self._make())

    async def _make(self):
        return Node(self.engine)

    def run(self, work):
        return self.loop.run_until_complete(work)

    def save_marks(self):
        async def work():
            self.node._save_marks()
            await settled(self.node)

        self.run(work())

    def send(self, *messages):
        """Hand in messages, all in one turn, and wait until the node has nothing more to do."""

        async def work():
            for i, message in enumerate(messages):
                self.node.submit(self.port, i + 1, message)
            await settled(self.node)

        self.run(work())


def asking(prepare, *messages):
    """Count `messages` on a world that `prepare(world, n)` has filled."""

    def at(n):
        world = World()
        prepare(world, n)
        world.port.answers.clear()
        made = [m(n) if callable(m) else m for m in messages]

        def work():
            world.send(*made)
            assert not [m for _, m in world.port.answers if isinstance(m, Failed)]

        return work

    return at


def every_second(world, n):
    """A segment of which every second register was captured, written and marked by itself."""
    for i in range(n):
        world.send(
            Capture("s", 0, 2 * i, 2 * i + 1, rounds(2 + i)),
            Write("s", 0, rounds(2 + i), [2 * i], [b"v"]),
            Decided("s", 0, rounds(2 + i), [(2 * i, 2 * i + 1)]),
        )


def every_second_saved(world, n):
    every_second(world, n)
    world.save_marks()


def many_spaces(world, n):
    for i in range(n):
        world.send(Write(f"s{i:06}", 0, rounds(1), [0], [b"v"]))


def many_tombstones(world, n):
    for i in range(n):
        world.send(Write("s", 2 * i, rounds(1), [0], [b"v"]), Trim("s", 2 * i, 2 * i + 1))


HIGH = rounds(1 << 20)
SINGLE = {
    "capture of one": (Capture("s", 0, 101, 102, HIGH), every_second_saved),
    "write of one": (Write("s", 0, HIGH, [101], [b"v"]), every_second_saved),
    "write far apart": (Write("s", 0, HIGH, [101, 1 << 31], [b"v", b"w"]), every_second_saved),
    "read of one": (Read("s", 0, [(100, 101)]), every_second_saved),
    "read of one, marks pending": (Read("s", 0, [(100, 101)]), every_second),
    "a mark": (Decided("s", 0, HIGH, [(100, 101)]), every_second),
    "marks far apart": (Decided("s", 0, HIGH, [(100, 101), (401, 402)]), every_second),
    "write in one space of many": (Write("s000100", 0, HIGH, [7], [b"v"]), many_spaces),
    "write in a new space": (Write("new", 0, HIGH, [7], [b"v"]), many_spaces),
    "head": (Trims("s", 0, 1), many_tombstones),
    "trim of one": (Trim("s", 101, 102), many_tombstones),
    "read of a trimmed one": (Read("s", 100, [(0, 1)]), many_tombstones),
    "status": (Status(), many_spaces),
}


@pytest.mark.parametrize("what", SINGLE)
def test_one_message_costs_the_same_however_much_there_is(what):
    message, prepare = SINGLE[what]
    assert_growth(asking(prepare, message), SIZES, at_most=LOGARITHM)


def test_a_page_costs_a_page_however_much_there_is():
    with turned(server_page_bytes=4096, server_page_names=10, server_page_promises=10):
        whole = Read("s", 0, [(0, 1 << 32)])
        detail = Read("s", 0, [(0, 1 << 32)], detail=True)
        assert_growth(asking(every_second_saved, whole), SIZES, at_most=LOGARITHM)
        assert_growth(asking(every_second_saved, detail), SIZES, at_most=LOGARITHM)
        assert_growth(asking(many_spaces, Spaces("")), SIZES, at_most=LOGARITHM)


def nothing(world, n):
    world.send(Write("s", 0, rounds(1), [0], [b"v"]))


IN_PROPORTION = {
    "registers of a write": lambda n: Write("s", 0, HIGH, list(range(0, 2 * n, 2)), [b"v"] * n),
    "spans of a mark": lambda n: Decided("s", 0, HIGH, [(2 * i, 2 * i + 1) for i in range(n)]),
    "spans of a read": lambda n: Read("s", 0, [(2 * i, 2 * i + 1) for i in range(n)]),
    "a capture of all": lambda n: Capture("s", 0, 0, 1 << 32, HIGH),
    "a mark on all": lambda n: Decided("s", 0, HIGH, [(0, 1 << 32)]),
}


@pytest.mark.parametrize("what", IN_PROPORTION)
@pytest.mark.parametrize("prepare", [nothing, every_second_saved, every_second])
def test_a_long_message_costs_its_length_or_what_it_supersedes(what, prepare):
    assert_growth(asking(prepare, IN_PROPORTION[what]), SIZES, at_most=1.0)


def test_many_messages_of_one_batch_cost_as_much_each_as_alone():
    def at(make):
        return lambda n: asking(nothing, *[make(i) for i in range(n)])(n)

    for make in (
        lambda i: Capture("s", 0, 2 * i, 2 * i + 1, rounds(2 + i)),
        lambda i: Write("s", 0, rounds(1), [2 * i], [b"v"]),
        lambda i: Decided("s", 0, rounds(1), [(2 * i, 2 * i + 1)]),
        lambda i: Trim("s", 2 * i, 2 * i + 1),
        lambda i: Write(f"s{i}", 0, rounds(1), [0], [b"v"]),
        lambda i: Read("s", 0, [(2 * i, 2 * i + 1)]),
        lambda i: Listen("s", i, i + 1),
        lambda i: Listen(f"s{i}", 0, 1 << 62),
    ):
        assert_growth(at(make), SIZES, at_most=1.1)


def test_saving_marks_and_sweeping_cost_what_there_is_and_no_batch_has_more_than_its_share():
    def saving(n):
        world = World()
        every_second(world, n)

        def work():
            world.save_marks()
            assert len(world.node._marks) == 0

        return work

    def sweeping(n):
        world = World()
        every_second_saved(world, n)
        return lambda: world.send(Trim("s", 0, 1))

    with turned(server_marks_saved=20, server_sweep_keys=20):
        assert_growth(saving, SIZES, at_most=1.0)
        assert_growth(sweeping, SIZES, at_most=1.0)
        world = World()
        every_second_saved(world, 100)
        before = world.node.counters.batches
        world.send(Trim("s", 0, 1))
        held = content(world.engine)
        assert not any(held[table] for table in ("rows", "promises", "decided", "garbage"))
        assert world.node.counters.batches - before >= 300 / 20


# ---------------------------------------------------------------------------- listeners


def listening(n, listen):
    """Listeners, with `n` subscriptions of one client."""
    listeners, port = Listeners(Counters()), Port()
    for i in range(n):
        listeners.add(port, i, listen(i))
    return listeners, port


LISTENS = {
    "a segment each": lambda i: Listen("s", i, i + 1),
    "a space each": lambda i: Listen(f"s{i}", 0, 1 << 62),
    "the same": lambda i: Listen("s", 0, 1 << 62),
}


@pytest.mark.parametrize("kind", LISTENS)
def test_beginning_and_ending_a_subscription_cost_the_same_however_many_there_are(kind):
    def one_more(n):
        listeners, port = listening(n, LISTENS[kind])

        def work():
            listeners.add(port, n + 1, Listen("t", 0, 1))
            listeners.add(port, 5, Listen("t", 0, 1))
            listeners.remove(port, 7)
            listeners.held_by(port)

        return work

    assert_growth(one_more, SIZES, at_most=0)


def test_an_event_costs_what_it_concerns():
    def telling(kind, event):
        def at(n):
            listeners, _ = listening(n, LISTENS[kind])

            def work():
                listeners.publish(event)

            return work

        return at

    accepted = Accepted("s", 3, rounds(1), [0], [b"v"])
    discarded = TrimNotice("s", 3, 5)
    assert_growth(telling("a segment each", accepted), SIZES, at_most=0)
    assert_growth(telling("a segment each", discarded), SIZES, at_most=0)
    assert_growth(telling("a segment each", TrimNotice("s", 0, 1 << 62)), SIZES, at_most=1.0)
    assert_growth(telling("a space each", accepted), SIZES, at_most=0)
    assert_growth(telling("the same", accepted), SIZES, at_most=1.0)


def test_a_client_that_goes_costs_its_own_subscriptions():
    def going(n):
        listeners, _ = listening(n, LISTENS["a segment each"])
        other = Port()
        for i in range(10):
            listeners.add(other, i, Listen("s", i, i + 1))
        return lambda: listeners.forget(other)

    assert_growth(going, SIZES, at_most=0)
    assert_growth(
        lambda n: (lambda held: lambda: held[0].forget(held[1]))(
            listening(n, LISTENS["a segment each"])
        ),
        SIZES,
        at_most=1.0,
    )


def test_unlisten_of_what_nobody_listens_to_costs_nothing():
    def at(n):
        world = World()
        world.send(*[Listen("s", i, i + 1) for i in range(n)])
        return lambda: world.send(*[Unlisten(1 << 40) for _ in range(10)])

    assert_growth(at, SIZES, at_most=0)


@pytest.mark.parametrize("most", [1, 3, 50])
def test_a_mark_over_many_is_saved_in_parts(most):
    """It replaces no more stored marks in one batch than a request may in a turn."""

    def saved(supersede):
        world = World()
        every_second_saved(world, 40)
        batches = world.node.counters.batches
        with turned(server_supersede=supersede):
            world.send(
                Decided("s", 0, rounds(20), [(0, 45), (60, 70)]), Decided("s", 0, HIGH, [(10, 15)])
            )
            world.save_marks()
        prefix = tables.segment_key(tables.find_space(world.engine.view, "s"), 0)
        stored = tables.load_slice(world.engine.view, tables.DECIDED, prefix, 0, 1 << 32)
        return stored, world.node.counters.batches - batches

    at_once, batches = saved(1000)
    assert batches == 1
    in_parts, batches = saved(most)
    assert in_parts == at_once
    assert batches >= 30 // most
