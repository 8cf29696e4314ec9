"""A request in parts that fails in the middle: what was done of it counts as if asked for alone."""

import pytest
from nodes import B1, Port, settled

from inprocess import content
from wormspace.errors import StoreDamaged, StoreFull
from wormspace.knobs import turned
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import Capture, Done, Promise, Reject, Trim, Write
from wormspace.server import tables
from wormspace.server.node import Node
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import DAMAGED, FULL, Failed, Listen, TrimNotice

SEGMENTS = 40


class Failing(MemoryEngine):
    """A store that fails once, after some commits; as a rule never.

    Attributes:
        left: after how many.
        error: in what way: a full one refuses a commit, a damaged one is noticed at the next look.
    """

    def __init__(self):
        super().__init__()
        self.left, self.error, self.commits = -1, None, 0

    def begin(self):
        if self.left == 0 and isinstance(self.error, StoreDamaged):
            self.left = -1
            raise_once = super().begin()
            raise_once.floor = self._damaged
            return raise_once
        return super().begin()

    def _damaged(self, table, key):
        raise self.error

    async def commit(self, batch):
        self.commits += 1
        if self.left == 0:
            self.left = -1
            batch.abort()
            raise self.error
        self.left -= 1
        await super().commit(batch)


async def trimmed_one_by_one(engine):
    """A node whose odd segments are trimmed and whose even ones hold a row, and one who listens."""
    node, port, ear = Node(engine), Port(), Port()
    for segment in range(SEGMENTS):
        node.submit(port, 1, Write("s", segment, B1, [0], [b"v"]))
    for segment in range(1, SEGMENTS, 2):
        node.submit(port, 1, Trim("s", segment, segment + 1))
    await settled(node)
    node.submit(ear, 1, Listen("s", 0, SEGMENTS, True))
    ear.answers.clear()
    return node, port, ear


@pytest.mark.parametrize("after", range(1, 7))
@pytest.mark.parametrize(
    ("error", "code"), [(StoreFull("no room"), FULL), (StoreDamaged("a row"), DAMAGED)]
)
async def test_what_was_trimmed_of_a_failed_trim_is_told_and_swept(error, code, after):
    """Nobody may ask again, and then it would take room, and readers' memory, until a restart."""
    engine = Failing()
    node, port, ear = await trimmed_one_by_one(engine)
    with turned(server_supersede=3, server_sweep_keys=1):
        node._sweep_keys = 1  # else a trim that found no room is tried again
        engine.left, engine.error = after, error
        node.submit(port, 2, Trim("s", 0, SEGMENTS))
        await settled(node)
        node._sweep_again()  # as it does by itself after a while
        await settled(node)
    (answer,) = port.of(2)
    assert isinstance(answer, Failed)
    assert answer.code == code
    space = tables.find_space(engine.view, "s")
    gone = {s for s in range(0, SEGMENTS, 2) if tables.is_trimmed(engine.view, space, s)}
    assert 0 < len(gone) < SEGMENTS // 2
    left = content(engine)
    held = {int.from_bytes(key[4:12], "big") for key, _ in left[tables.ROWS]}
    assert held == set(range(0, SEGMENTS, 2)) - gone
    assert not left[tables.GARBAGE]
    told = [m for m in ear.of(1) if isinstance(m, TrimNotice)]
    assert {s for m in told for s in range(m.segment, m.stop) if s % 2 == 0} == gone
    node.submit(port, 3, Trim("s", 0, SEGMENTS))
    await settled(node)
    assert port.of(3) == [Done()]
    assert not content(engine)[tables.ROWS]
    await node.stop()


@pytest.mark.parametrize("supersede", [1, 3, 2000])
async def test_a_refusal_names_the_highest_promise_of_the_whole_range(supersede):
    """Else the one who captures is refused again and again, a part further each time."""
    node, port = Node(MemoryEngine()), Port()
    for i in range(30):
        node.submit(port, 1, Capture("s", 0, 2 * i, 2 * i + 1, ballot(20 + i, b"proposer")))
    await settled(node)
    with turned(server_supersede=supersede):
        node.submit(port, 2, Capture("s", 0, 0, 60, ballot(5, b"proposer")))
        await settled(node)
        node.submit(port, 3, Capture("s", 0, 0, 60, ballot(49, b"proposer")))
        await settled(node)
    highest = ballot(49, b"proposer")
    assert (port.of(2), port.of(3)) == ([Reject(highest)], [Reject(highest)])
    await node.stop()


async def test_parts_do_not_grow_in_number_with_the_registers_of_a_promise():
    engine = Failing()
    node, port = Node(engine), Port()
    for start, stop, n in ((0, 1000, 2), (5, 1000, 3)):
        node.submit(port, 1, Capture("s", 0, start, stop, ballot(n, b"proposer")))
    await settled(node)
    before = engine.commits
    with turned(server_supersede=1):
        node.submit(port, 2, Capture("s", 0, 0, 1000, ballot(9, b"proposer")))
        await settled(node)
    assert isinstance(port.of(2)[0], Promise)
    assert engine.commits - before <= 8
    await node.stop()
