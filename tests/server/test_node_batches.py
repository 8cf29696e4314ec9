"""What a node takes in, and what it makes one batch of; on a store that commits when it is told."""

from __future__ import annotations

import asyncio

import pytest
from nodes import B1, B2, Held, Port, codes, settled, turns, write

from inprocess import content
from wormspace.errors import StoreError
from wormspace.knobs import turned
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import (
    Capture,
    Decided,
    Done,
    Promise,
    Read,
    Reject,
    Report,
    Trim,
    Write,
    Written,
)
from wormspace.server.node import Node
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import (
    BAD_REQUEST,
    INTERNAL,
    STOPPING,
    TOO_MANY,
    Accepted,
    Listen,
    Metrics,
    SpaceNames,
    Spaces,
    Status,
    Tombstones,
    TrimNotice,
    Trims,
    Unlisten,
)

# ---------------------------------------------------------------- what is taken in


async def test_what_waits_is_counted_and_who_waits_for_it_is_told_once() -> None:
    engine, port = Held(), Port()
    node, told = Node(engine), []
    node.submit(port, 1, write(0), 10)
    await turns()
    for i, size in ((2, 20), (3, 30)):
        node.submit(port, i, write(i), size)
    node.submit(port, 4, Read("s", 0, [(0, 1)]), 500)  # it does not wait
    assert node.backlog_bytes == node.metrics()["backlog_bytes"] == 60
    node.on_drained += [lambda: told.append("one"), lambda: told.append("two")]
    engine.go()
    await turns()
    assert (node.backlog_bytes, told) == (50, ["one", "two"])
    engine.go()
    await turns()
    assert (node.backlog_bytes, told) == (0, ["one", "two"])
    assert [i for i, _ in port.answers] == [4, 1, 2, 3]
    await node.stop()


async def test_what_needs_no_batch_is_answered_at_once() -> None:
    port = Port()
    node = Node(MemoryEngine())
    for i, m in enumerate([write(0), write(0, space="t"), Trim("s", 2, 4)]):
        node.submit(port, i, m)
    await settled(node)
    port.answers.clear()
    for request, answer in (
        (Read("s", 0, [(1, 9)]), Report([], -1)),
        (Listen("s", 0, 9), Done()),
        (Unlisten(7), None),
        (Decided("s", 0, B1, [(0, 1)]), None),
        (Spaces(""), SpaceNames(["s", "t"])),
        (Trims("s", 0, 9), Tombstones([(2, 4)], -1)),
    ):
        node.submit(port, 7, request)
        assert port.of(7) == ([] if answer is None else [answer])
        port.answers.clear()
    node.submit(port, 7, Status())
    assert port.answers == [(7, Metrics(node.metrics()))]
    with turned(server_page_names=1):
        node.submit(port, 8, Spaces(""))
    assert port.of(8) == [SpaceNames(["s"])]
    await node.stop()


async def test_a_node_that_stops_answers_reads_and_one_that_has_stopped_nothing() -> None:
    engine, port = Held(), Port()
    node = Node(engine)
    node.submit(port, 1, write(0))
    await turns()
    stopping = asyncio.ensure_future(node.stop())
    await turns()
    requests = [
        write(1), Capture("s", 0, 0, 9, B2), Trim("s", 0, 1),
        Read("s", 0, [(0, 1)]), Listen("s", 0, 1), Status(), Spaces(""),
    ]  # fmt: skip
    for i, m in enumerate(requests, 10):
        node.submit(port, i, m)
    assert codes(port) == {10: STOPPING, 11: STOPPING, 12: STOPPING}
    assert len(port.answers) == 7
    node.submit(port, 17, Decided("s", 0, B1, [(0, 1)]))
    assert node._marks_timer is None
    assert not stopping.done()
    engine.go()
    await turns()
    assert port.of(1) == [Written([])]
    engine.go()
    await stopping
    assert engine.view.closed
    for i, m in enumerate(requests, 20):
        node.submit(port, i, m)
    assert {i: c for i, c in codes(port).items() if i >= 20} == dict.fromkeys(
        range(20, 27), STOPPING
    )
    assert node.counters.bad_requests == 0


async def test_as_many_subscriptions_as_allowed_and_the_same_one_again() -> None:
    port, other = Port(), Port()
    node = Node(MemoryEngine(), max_listeners=2)
    for i in (1, 2, 2, 1, 3):
        node.submit(port, i, Listen("s", 0, 9))
    node.submit(other, 3, Listen("s", 0, 9))
    assert port.of(1) == port.of(2) == [Done(), Done()]
    assert codes(port) == {3: TOO_MANY}
    assert other.of(3) == [Done()]
    assert node.metrics()["listeners"] == 3
    node.forget(port)
    assert node.metrics()["listeners"] == 1
    await node.stop()


async def test_metrics_are_counts_sizes_and_what_the_socket_adds() -> None:
    port = Port()
    node = Node(MemoryEngine())
    node.more_metrics = lambda: {"connections": 5}
    node.submit(port, 1, Capture("s", 0, 0, 9, B1))
    node.submit(port, 2, write(0, 3))
    node.submit(port, 3, Write("s", 0, B1, [2, 5], [b"other", b"v"]))
    node.submit(port, 4, Capture("s", 0, 0, 9, B1))
    node.submit(port, 5, Trim("s", 3, 4))
    node.submit(port, 6, Read("s", 0, []))
    await settled(node)
    node.submit(port, 7, Read("s", 0, [(1, 9)]))
    node.submit(port, 8, Decided("s", 0, B1, [(0, 1), (3, 4)]))
    metrics = node.metrics()
    said = {name: metrics[name] for name in metrics if metrics[name]}
    size = said.pop("store_bytes")
    assert size > 100
    assert said == {
        "captures": 2, "writes": 2, "registers_written": 4, "registers_refused": 1, "trims": 1,
        "reads": 1, "registers_read": 3, "batches": 1, "batched_requests": 5, "bad_requests": 1,
        "swept": 1, "connections": 5, "marks_unsaved": 2,
    }  # fmt: skip
    assert metrics["troubled"] == 0
    assert "trouble" not in metrics
    await node.stop()


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ("work", "sizes"), [(1, [1, 1, 1, 1, 1]), (3, [2, 1, 2]), (4, [3, 2]), (100, [5])]
)
async def test_a_batch_is_closed_by_the_request_that_reaches_its_work(work, sizes) -> None:
    engine, port = Held(), Port()
    node = Node(engine)
    node.submit(port, 0, write(50))
    await turns()
    requests = [Capture("s", 0, 0, 9, B1), write(0, 2), write(2, 3), Trim("s", 7, 8), write(5, 2)]
    for i, m in enumerate(requests, 1):
        node.submit(port, i, m)
    found = []
    with turned(server_batch_work=work):
        engine.go()
        await turns()
        while len(port.answers) < 6:
            before = len(port.answers)
            engine.go()
            await turns()
            found.append(len(port.answers) - before)
    assert found == sizes
    assert [i for i, _ in port.answers] == list(range(6))
    engine.open = True
    engine.go()
    await node.stop()


async def test_rows_of_one_batch_have_a_limit_and_a_slow_client_gets_none() -> None:
    port, slow = Port(), Port()
    slow.full = True
    node = Node(MemoryEngine())
    for segment in range(5):
        node.submit(port, 0, Write("s", segment, B1, [3], [bytes(100)]))
    await settled(node)
    with turned(server_batch_rows_bytes=300):  # a row counts as 164
        for segment, who in enumerate((port, slow, port, port, port)):
            node.submit(who, 10 + segment, Capture("s", segment, 0, 9, B2))
        await settled(node)
    given = [[*port.of(i), *slow.of(i)][0] for i in range(10, 15)]
    assert [(len(p.rows), p.next) for p in given] == [(1, -1), (0, 3), (1, -1), (0, 3), (0, 3)]
    await node.stop()


async def test_what_replaces_enough_ends_its_batch_and_the_rest_goes_first() -> None:
    engine, port = Held(), Port()
    node = Node(engine)
    node.submit(port, 0, write(500))
    await turns()
    for segment in range(4):
        for n in range(64):
            node.submit(port, 100, Capture("s", segment, 2 * n, 2 * n + 1, ballot(2 + n, b"x" * 8)))
    engine.open = True
    engine.go()
    await settled(node)
    port.answers.clear()
    engine.open, engine.commits = False, []
    high = ballot(1000, b"x" * 8)
    with turned(server_batch_supersede=64):
        for segment in range(4):
            node.submit(port, segment, Capture("s", segment, 0, 128, high), 10)
        await turns()
        node.submit(port, 9, write(600))
        for answered in ([0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 9]):
            engine.go()
            await turns()
            assert [i for i, _ in port.answers] == answered
    assert node.backlog_bytes == 0
    await node.stop()


async def test_what_was_accepted_raises_the_rounds_that_are_taken() -> None:
    """Also by a write, and by a capture that is handled in parts."""
    port = Port()
    node = Node(MemoryEngine())
    jump = 1 << 40

    async def ask(m):
        node.submit(port, 1, m)
        await settled(node)
        return port.answers.pop()[1]

    def at(rounds: int) -> bytes:
        return ballot(rounds, b"x" * 8)

    for n in range(3):
        await ask(Capture("s", 0, 2 * n, 2 * n + 1, at(2 + n)))
    assert (await ask(Capture("s", 1, 0, 9, at(jump + 1)))).code == BAD_REQUEST
    with turned(server_supersede=1):
        assert isinstance(await ask(Capture("s", 0, 0, 9, at(jump))), Promise)
    assert await ask(Write("s", 1, at(2 * jump), [0], [b"v"])) == Written([])
    assert isinstance(await ask(Capture("s", 2, 0, 9, at(3 * jump))), Promise)
    assert (await ask(Capture("s", 3, 0, 9, at(4 * jump + 1)))).code == BAD_REQUEST
    assert isinstance(await ask(Capture("s", 0, 0, 9, at(5))), Reject)
    await node.stop()


@pytest.mark.parametrize("turn", [5, 6], ids=["passed", "reached"])
async def test_listeners_are_told_in_turns_of_so_many_events(turn) -> None:
    port, writer = Port(), Port()
    node = Node(MemoryEngine())
    for i in range(3):
        node.submit(port, i, Listen("s", 0, 9))
    node.submit(port, 5, Listen("t", 0, 9))
    port.answers.clear()
    with turned(server_turn_requests=turn):
        for n in range(5):
            node.submit(writer, n, write(n))
            node.submit(writer, n, write(n, space="u"))
        node.submit(writer, 9, Trim("s", 5, 7))
        for told in (6, 12, 18, 18):
            await asyncio.sleep(0)
            assert len(port.answers) == told
    await settled(node)
    assert [m for i, m in port.answers if i == 1] == [
        *(Accepted("s", 0, B1, [n], [b"v"]) for n in range(5)), TrimNotice("s", 5, 7),
    ]  # fmt: skip
    assert port.of(5) == []
    await node.stop()


async def test_a_trim_in_parts_is_told_once_and_swept() -> None:
    port, writer = Port(), Port()
    engine = Held(is_open=True)
    node = Node(engine)
    node.submit(port, 7, Listen("s", 0, 99))
    for n in range(0, 8, 2):
        node.submit(writer, 1, Write("s", n, B1, [0], [b"v"]))
        node.submit(writer, 1, Trim("s", n, n + 1))
    await settled(node)
    port.answers.clear()
    with turned(server_supersede=1):
        for _ in range(2):
            node.submit(writer, 2, Trim("s", 0, 9))
            await settled(node)
    assert writer.of(2) == [Done(), Done()]
    told = [m for i, m in port.answers if i == 7]
    assert len(told) == len(port.answers) > 1
    at = 0
    for m in told:  # part by part, each segment once
        assert (m.space, m.segment) == ("s", at)
        at = m.stop
    assert at == 9
    assert not content(engine)["garbage"]
    await node.stop()


async def test_a_node_whose_store_failed_says_so_to_all_that_wait_and_all_that_come() -> None:
    engine, port, fatal = Held(), Port(), []
    node = Node(engine, on_fatal=fatal.append)
    node.submit(port, 1, write(0), 10)
    await turns()
    node.submit(port, 2, write(1), 10)
    node.submit(port, 3, Trim("s", 5, 6), 10)
    engine.error = StoreError("on fire")
    engine.go()
    await turns()
    node.submit(port, 4, Read("s", 0, [(0, 1)]))
    node.submit(port, 5, write(2), 10)
    assert codes(port) == dict.fromkeys(range(1, 6), INTERNAL)
    assert {m.text for _, m in port.answers} == {"the store has failed: on fire"}
    assert (fatal, node.backlog_bytes) == ([engine.error], 0)
    metrics = node.metrics()
    assert (metrics["troubled"], metrics["trouble"]) == (1, "on fire")
    await turns()
    assert len(engine.commits) == 1
    await node.stop()
    assert len(engine.commits) == 1
