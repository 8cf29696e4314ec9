"""What a node does of its own accord: it saves marks, and deletes what was trimmed.

In virtual time, on stores that commit when the test says so, or have no room.
"""

from __future__ import annotations

import asyncio
import itertools

import pytest
from nodes import B1, B2, Held, Port, codes, settled, turns, write

from inprocess import content
from wires import simulated
from wormspace.errors import StoreDamaged, StoreError, StoreFull
from wormspace.knobs import turned
from wormspace.paxos.messages import (
    Capture,
    Decided,
    Done,
    Read,
    Trim,
    Write,
)
from wormspace.server import node as node_module
from wormspace.server import tables
from wormspace.server.node import Node
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import (
    FULL,
)

# ---------------------------------------------------------------- marks


def test_marks_are_saved_after_a_while_or_when_there_are_many() -> None:
    async def work():
        engine, port = Held(is_open=True), Port()
        node, loop = Node(engine), asyncio.get_running_loop()
        node.submit(port, 1, write(0, 30))
        await settled(node)
        engine.commits.clear()
        began = loop.time()
        node.submit(port, 0, Decided("s", 0, B1, [(0, 1)]))
        await asyncio.sleep(node_module.MARKS_SAVE_S / 2)
        node.submit(port, 0, Decided("s", 0, B1, [(2, 3)]))
        assert node.metrics()["marks_unsaved"] == 2
        await asyncio.sleep(5 * node_module.MARKS_SAVE_S)
        assert [t - began for t in engine.commits] == [pytest.approx(node_module.MARKS_SAVE_S)]
        assert node.metrics()["marks_unsaved"] == 0
        node.submit(port, 0, Decided("s", 0, B1, [(29, 30)]))
        await asyncio.sleep(5 * node_module.MARKS_SAVE_S)
        assert len(engine.commits) == 2
        engine.commits.clear()
        with turned(server_marks_pending=3, server_marks_saved=2):
            node.submit(port, 0, Decided("s", 0, B1, [(4, 5), (6, 7)]))
            await turns()
            assert engine.commits == []
            began = loop.time()
            node.submit(port, 0, Decided("s", 0, B1, [(8, 9), (26, 27)]))
            await asyncio.sleep(5 * node_module.MARKS_SAVE_S)
        assert [t - began for t in engine.commits] == [0, 0]
        assert len(content(engine)["decided"]) == 7
        for lo in range(10, 20, 2):
            node.submit(port, 0, Decided("s", 0, B1, [(lo, lo + 1)]))
        engine.commits.clear()
        with turned(server_marks_saved=2):
            engine.close = lambda: saved.append(len(content(engine)["decided"]))
            saved: list[int] = []
            await node.stop()
        assert (saved, len(engine.commits)) == ([12], 3)

    simulated(work)


# ---------------------------------------------------------------- trimmed segments, and no room


def test_a_node_sweeps_what_it_finds_when_it_begins() -> None:
    async def work():
        engine, port = Held(is_open=True), Port()
        batch = engine.begin()
        space = tables.intern_space(batch, "s")
        for n in range(10):
            batch.put(tables.ROWS, tables.segment_key(space, 1) + n.to_bytes(4, "big"), B1)
        batch.put(tables.GARBAGE, tables.segment_key(space, 1), (2).to_bytes(8, "big"))
        await MemoryEngine.commit(engine, batch)
        with turned(server_sweep_keys=4):
            node = Node(engine)
            await settled(node)
        assert node.counters.swept == 11
        assert len(engine.commits) == 3
        assert not content(engine)["rows"]
        assert not content(engine)["garbage"]
        await asyncio.sleep(100)
        assert len(engine.commits) == 3
        node.submit(port, 1, Read("s", 1, [(0, 9)]))
        await node.stop()

    simulated(work)


def test_without_room_a_node_sweeps_less_at_a_time_and_looks_again_now_and_then() -> None:
    """What was refused is told; a trim is tried once more, alone."""

    async def work():
        engine, port = Held(is_open=True), Port()
        loop = asyncio.get_running_loop()
        with turned(server_sweep_keys=64):
            node = Node(engine)
            count = 300
            node.submit(port, 0, Write("s", 1, B1, list(range(count)), [b"v"] * count))
            await settled(node)
            engine.commits.clear()
            engine.error = StoreFull("no room")
            node.submit(port, 1, write(0))
            node.submit(port, 2, Trim("s", 1, 2))
            node.submit(port, 3, Capture("s", 0, 0, 9, B2))
            began = loop.time()
            await asyncio.sleep(5.5 * node_module.SWEEP_RETRY_S)
            assert codes(port) == {1: FULL, 2: FULL, 3: FULL}
            assert {m.text for _, m in port.answers[1:]} == {"no room"}
            # All of them, and the trim again with a sweep of 16 keys, of 4, and of 1.
            assert [t - began for t in engine.commits] == [0, 0, 0, 0]
            assert node.counters.store_full == 4
            assert node._sweep_keys == 1
            engine.error = None
            node.submit(port, 4, Trim("s", 1, 2))
            engine.commits.clear()
            await settled(node)
        assert port.of(4) == [Done()]
        # A key, and 2, 4, 8, 16 and 32, and then 64 at most.
        assert len(engine.commits) == 10
        done = node.counters  # and not what was tried
        assert (done.swept, done.trims, done.writes, done.captures) == (count + 2, 1, 1, 0)
        assert done.registers_written == count
        await node.stop()

    simulated(work)


def test_that_there_is_no_room_is_logged_once_until_there_is_some_again(caplog) -> None:
    async def work():
        engine, port = Held(is_open=True), Port()
        node, offsets = Node(engine), itertools.count(1)

        async def said(error: Exception | None) -> list[str]:
            engine.error = error
            caplog.clear()
            for _ in range(3):
                node.submit(port, 1, write(next(offsets)))
                await turns()
            return [record.getMessage() for record in caplog.records]

        for _ in range(2):
            assert await said(StoreFull("no room")) == ["store full: no room"]
            assert await said(None) == []
        await node.stop()

    simulated(work)


@pytest.mark.parametrize("is_helped", [False, True])
def test_a_node_that_cannot_sweep_tries_again_each_second_until_it_can(is_helped) -> None:
    """Or until a request has found room, and what was left to sweep went with it."""

    async def work():
        engine, port = Held(is_open=True), Port()
        node, loop = Node(engine), asyncio.get_running_loop()
        node.submit(port, 0, Write("s", 1, B1, [0, 1, 2, 3], [b"v"] * 4))
        await settled(node)
        node._sweep_keys = 1
        node.submit(port, 0, Trim("s", 1, 2))
        await asyncio.sleep(0)  # a batch is done, and not all is swept
        engine.error = StoreFull("no room")
        engine.commits.clear()
        began = loop.time()
        await asyncio.sleep(3.5 * node_module.SWEEP_RETRY_S)
        assert [round(t - began) for t in engine.commits] == [0, 1, 2, 3]
        assert content(engine)["garbage"]
        engine.error = None
        if is_helped:
            node.submit(port, 0, Write("s", 2, B1, [0], [b"v"]))
            await settled(node)
            commits = len(engine.commits)
        await asyncio.sleep(3 * node_module.SWEEP_RETRY_S)
        assert not is_helped or len(engine.commits) == commits  # nothing was left to try
        assert not content(engine)["garbage"]
        assert len(content(engine)["rows"]) == is_helped
        commits = len(engine.commits)
        await asyncio.sleep(100)
        assert len(engine.commits) == commits
        await node.stop()

    simulated(work)


@pytest.mark.parametrize(
    ("error", "ends"),
    [(StoreError("gone"), True), (StoreDamaged("a row"), False), (ValueError("a bug"), False)],
    ids=["store", "damage", "bug"],
)
def test_a_chore_ends_the_node_where_the_store_has_failed_and_else_itself(
    error, ends, monkeypatch
) -> None:
    def sweep(batch, limit):
        raise error

    async def work():
        fatal: list[StoreError] = []
        engine, port = Held(is_open=True), Port()
        node = Node(engine, on_fatal=fatal.append)
        node.submit(port, 1, write(0))
        await settled(node)
        monkeypatch.setattr(node_module.acceptors, "sweep", sweep)
        node.submit(port, 2, Trim("s", 0, 1))
        await settled(node)
        node.submit(port, 3, write(0))
        await settled(node)
        assert fatal == ([error] if ends else [])
        assert (port.of(2) == [Done()]) is not ends
        assert sorted(codes(port)) == ([2, 3] if ends else [])
        await node.stop()

    simulated(work)
