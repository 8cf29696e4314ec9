"""What goes wrong inside a node costs what it goes wrong with, or ends the node."""

import asyncio

import pytest
from nodes import B1, B2, Port, Touchy, settled

import wormspace
from inprocess import Raw, serving
from wormspace.errors import StoreDamaged, StoreError
from wormspace.knobs import turned
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import Capture, Decided, Read, Report, Trim, Write, Written
from wormspace.server import tables
from wormspace.server.node import Node
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import DAMAGED, INTERNAL, Failed, Status


def damaged_at(*offsets):
    """Raises when the row of such an offset is looked up."""

    def bad(table, key):
        if table == tables.ROWS and int.from_bytes(key[12:], "big") in offsets:
            raise StoreDamaged(f"row {key.hex()} is not what was written")

    return bad


async def written_node(count=10):
    engine, port = Touchy(), Port()
    fatal = []
    node = Node(engine, on_fatal=fatal.append)
    node.submit(port, 1, Write("s", 0, B1, list(range(count)), [b"v%d" % i for i in range(count)]))
    await settled(node)
    port.answers.clear()
    node.fatal = fatal
    return engine, node, port


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError(), KeyError(1)])
async def test_any_error_of_a_commit_ends_the_node_before_anything_is_built_on_it(error):
    """The batch is not dropped: nobody knows what of it the disk has."""
    engine, node, port = await written_node()
    engine.commit_error = error
    node.submit(port, 1, Write("s", 0, B1, [20], [b"v"]))
    worker = node._worker
    await settled(node)
    assert worker.exception() is None
    engine.commit_error = None
    commits = engine.commits
    for i, m in enumerate([Write("s", 0, B1, [21], [b"w"]), Read("s", 0, [(0, 99)]), Status()], 2):
        node.submit(port, i, m)
    await settled(node)
    assert [type(m) for _, m in port.answers] == [Failed] * 4
    assert {m.code for _, m in port.answers} == {INTERNAL}
    assert engine.commits == commits
    assert len(node.fatal) == 1
    await node.stop()
    assert engine.commits == commits


class Hanging(MemoryEngine):
    """No commit of it ends."""

    async def commit(self, batch):
        await asyncio.Event().wait()


async def test_a_commit_that_is_cancelled_ends_the_node():
    fatal, port = [], Port()
    node = Node(Hanging(), on_fatal=fatal.append)
    node.submit(port, 1, Write("s", 0, B1, [0], [b"v"]))
    await asyncio.sleep(0)
    node.submit(port, 2, Write("s", 0, B1, [1], [b"v"]))
    await asyncio.sleep(0)
    worker = node._worker
    worker.cancel()
    await asyncio.sleep(0.01)
    assert worker.cancelled()
    assert [type(e) for e in fatal] == [StoreError]
    assert sorted(i for i, m in port.answers if isinstance(m, Failed)) == [1, 2]


async def test_a_commit_that_is_dropped_ends_the_node():
    port, node = Port(), Node(Hanging())
    commit = node._commit([])
    commit.send(None)
    commit.close()
    node.submit(port, 1, Read("s", 0, [(0, 1)]))
    assert [m.code for m in port.of(1)] == [INTERNAL]


async def test_what_is_left_of_a_batch_is_not_looked_up_in_a_store_that_has_failed():
    """The batch is divided because of damage, and the first of its parts cannot be committed."""
    engine, node, port = await written_node()
    looked_up = []

    def bad(table, key):
        if node.fatal:
            looked_up.append(key)
        damaged_at(1)(table, key)

    engine.bad, engine.commit_error = bad, OSError(5, "Input/output error")
    for offset in range(4):
        node.submit(port, offset, Write("s", 0, B2, [offset], [b"new"]))
    await settled(node)
    assert [(i, m.code) for i, m in port.answers] == [(i, INTERNAL) for i in range(4)]
    assert len(node.fatal) == 1
    assert not looked_up


async def test_a_read_of_a_damaged_row_is_answered_as_such_and_others_go_on():
    engine, node, port = await written_node()
    engine.bad = damaged_at(3)
    node.submit(port, 1, Read("s", 0, [(3, 4)]))
    node.submit(port, 2, Read("s", 0, [(0, 10)]))
    node.submit(port, 3, Read("s", 0, [(4, 10)]))
    assert [m.code for _, m in port.answers[:2]] == [DAMAGED, DAMAGED]
    assert len(port.of(3)[0].rows) == 6
    assert node.metrics()["damaged"] == 2
    assert not node.fatal
    await node.stop()


async def test_of_a_batch_only_what_meets_damage_fails():
    engine, node, port = await written_node(100)
    engine.bad = damaged_at(17, 40)
    for offset in range(100):
        node.submit(port, offset + 1, Write("s", 0, B2, [offset], [b"new"]))
    node.submit(port, 101, Capture("s", 0, 0, 50, B2))
    node.submit(port, 102, Capture("t", 0, 0, 50, B2))
    commits = engine.commits
    await settled(node)
    failed = [i - 1 for i, m in port.answers if isinstance(m, Failed)]
    assert failed == [17, 40]
    assert all(m.code == DAMAGED for _, m in port.answers if isinstance(m, Failed))
    assert len(port.answers) == 102
    assert engine.commits - commits < 20  # not one by one
    assert not node.fatal
    await node.stop()


async def test_a_capture_whose_report_meets_damage_promises_nothing():
    """A promise without the row would say that nothing was accepted there."""
    engine, node, port = await written_node()
    engine.bad = damaged_at(3)
    node.submit(port, 1, Capture("s", 0, 0, 10, B2))
    await settled(node)
    assert port.of(1)[0].code == DAMAGED
    engine.bad = damaged_at()
    node.submit(port, 2, Capture("s", 0, 0, 10, B2))
    await settled(node)
    assert len(port.of(2)[0].rows) == 10
    await node.stop()


async def test_a_write_that_fails_half_way_leaves_nothing_of_itself():
    """Many promises: the write looks up, and puts, one register after the other."""
    engine, node, port = await written_node(20)
    for offset in range(0, 20, 2):
        node.submit(port, 1, Capture("s", 0, offset, offset + 1, B2))
    await settled(node)
    before = [list(engine._view.scan(t, b"", b"\xff" * 30)) for t in ("rows", "promises")]

    def bad(table, key):
        if table == tables.PROMISES and int.from_bytes(key[12:], "big") == 16:
            raise StoreDamaged("a promise is not what was put there")

    engine.bad = bad
    port.answers.clear()
    node.submit(port, 9, Write("s", 0, B2, list(range(20)), [b"new"] * 20))
    await settled(node)
    assert port.of(9)[0].code == DAMAGED
    engine.bad = damaged_at()
    after = [list(engine._view.scan(t, b"", b"\xff" * 30)) for t in ("rows", "promises")]
    assert after == before
    await node.stop()


async def test_a_fault_of_our_own_costs_its_request_alone(monkeypatch):
    _, node, port = await written_node()
    from wormspace.server import acceptors

    shipped = acceptors.on_write

    def buggy(promises, row, offset, ballot, value):
        if offset == 33:
            raise ZeroDivisionError
        return shipped(promises, row, offset, ballot, value)

    monkeypatch.setattr(acceptors, "on_write", buggy)
    for offset in range(30, 40):
        node.submit(port, offset, Write("s", 0, B2, [offset], [b"new"]))
    await settled(node)
    assert [i for i, m in port.answers if isinstance(m, Failed)] == [33]
    assert sum(m == Written([]) for _, m in port.answers) == 9
    node.submit(port, 99, Read("s", 0, [(30, 40)]))
    assert len(port.of(99)[0].rows) == 9
    assert node.metrics()["faults"] == 1
    await node.stop()


async def test_damage_in_marks_or_garbage_costs_no_request_and_is_not_tried_for_ever():
    engine, node, port = await written_node()

    def bad(table, key):
        if table == tables.DECIDED:
            raise StoreDamaged("a mark")

    node.submit(port, 0, Write("s", 0, B1, [11], [b"v"]))
    await settled(node)
    node.submit(port, 0, Decided("s", 0, B1, [(0, 10)]))
    batch = engine.begin()
    batch.put(tables.DECIDED, tables.segment_key(bytes(4), 0) + bytes(8), bytes(24))
    await engine.commit(batch)
    engine.bad = bad
    node._save_marks()
    node.submit(port, 2, Write("s", 0, B1, [12], [b"v"]))
    await settled(node)
    assert port.of(2) == [Written([])]
    engine.bad = damaged_at(5)
    node.submit(port, 3, Trim("s", 0, 1))
    async with asyncio.timeout(5):
        await settled(node)
    assert type(port.of(3)[0]).__name__ == "Done"
    await node.stop()


async def test_a_store_that_fails_as_it_is_read_ends_the_node():
    engine, node, port = await written_node()

    def bad(table, key):
        raise StoreError("the tables are lost until a restart")

    engine.bad = bad
    node.submit(port, 1, Read("s", 0, [(0, 10)]))
    assert port.of(1)[0].code == INTERNAL
    assert len(node.fatal) == 1


async def test_a_store_that_fails_while_a_request_is_handled_in_parts_fails_once():
    engine, node, port = await written_node()
    for offset in range(20, 30, 2):
        node.submit(port, 0, Capture("s", 0, offset, offset + 1, B2))
    await settled(node)

    def bad(table, key):
        if table == tables.ROWS:
            raise StoreError("the tables are lost until a restart")

    with turned(server_supersede=1):
        node.submit(port, 1, Capture("s", 0, 0, 40, ballot(3, b"proposer")))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not port.of(1)
        commits = engine.commits
        engine.bad = bad
        node.submit(port, 2, Read("s", 0, [(0, 10)]))
        engine.bad = damaged_at()
        await settled(node)
    assert [port.of(i)[0].code for i in (1, 2)] == [INTERNAL] * 2
    assert len(node.fatal) == 1
    assert engine.commits == commits


async def test_a_read_that_meets_a_fault_of_our_own_is_answered():
    engine, node, port = await written_node()

    def bad(table, key):
        raise RuntimeError("never seen before")

    engine.bad = bad
    node.submit(port, 1, Read("s", 0, [(0, 10)]))
    engine.bad = damaged_at()
    node.submit(port, 2, Read("s", 0, [(0, 10)]))
    assert port.of(1)[0].code == INTERNAL
    assert isinstance(port.of(2)[0], Report)
    assert not node.fatal
    await node.stop()


async def test_status_tells_of_what_troubles_the_store():
    class Ill(MemoryEngine):
        def health(self):
            return "2 rows are damaged"

    async with (
        serving(Ill()) as server,
        wormspace.connect(f"worm://127.0.0.1:{server.port}") as worm,
    ):
        (state,) = await worm.servers()
    assert (state.reachable, state.trouble) == (True, "2 rows are damaged")
    assert state.metrics["troubled"] == 1
    assert all(isinstance(value, int) for value in state.metrics.values())


async def test_what_the_node_looks_up_for_itself_costs_no_request():
    """Whether there is garbage, and how far rounds have come."""
    engine, node, port = await written_node()

    def bad(table, key):
        if table == tables.GARBAGE:
            raise StoreDamaged("garbage")

    engine.bad = bad
    node.submit(port, 1, Trim("s", 0, 1))
    node.submit(port, 2, Write("s", 1, B1, [0], [b"v"]))
    await settled(node)
    node.submit(port, 3, Write("s", 1, B1, [1], [b"v"]))
    await settled(node)
    assert [i for i, _ in port.answers] == [1, 2, 3]
    assert not any(isinstance(m, Failed) for _, m in port.answers)
    await node.stop()


async def test_what_the_node_looks_up_after_a_batch_is_told_if_it_goes_wrong(monkeypatch):
    engine, node, port = await written_node()

    def damaged(view):
        raise StoreDamaged("it is not what was written")

    monkeypatch.setattr("wormspace.server.acceptors.has_garbage", damaged)
    monkeypatch.setattr(node._door, "learn_rounds", damaged)
    node.submit(port, 1, Trim("s", 5, 6))
    await settled(node)
    assert node.counters.damaged == 1
    far = (1 << 39).to_bytes(8, "big") + b"proposer"
    node.submit(port, 2, Write("s", 1, far, [0], [b"v"]))
    await settled(node)
    assert node.counters.damaged == 2
    assert not any(isinstance(m, Failed) for _, m in port.answers)
    commits = engine.commits
    await asyncio.sleep(0.01)
    assert engine.commits == commits
    await node.stop()


async def test_an_answer_that_cannot_be_encoded_costs_its_connection_alone(monkeypatch):
    async with serving() as server:
        bad, good = await Raw.connect(server.port), await Raw.connect(server.port)
        monkeypatch.setattr(server.node, "metrics", lambda: {"\ud800": 1})
        bad.request(Status())
        assert await bad.reply() is None
        assert await good.call(Write("s", 0, B1, [0], [b"v"])) == Written([])
