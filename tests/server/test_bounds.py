"""Absurd values in every field of every message: that message fails alone, state is untouched.

The messages are bytes, so that nothing on our side of the wire keeps a value from being sent.
"""

import asyncio
import typing

import msgspec
import pytest
from nodes import B1, B2, B3, Port, settled

from inprocess import Raw, content, serving
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import (
    Capture,
    Done,
    Promise,
    Read,
    Reject,
    Report,
    SegmentTrimmed,
    Trim,
    Write,
)
from wormspace.server.acceptors import TRIM_REACH
from wormspace.server.door import ROUNDS_JUMP
from wormspace.server.node import Node
from wormspace.server.tables import ROUNDS_STEP
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.frames import frame
from wormspace.wire.messages import (
    BAD_REQUEST,
    TOO_LARGE,
    ClientMessage,
    Failed,
    Listen,
    Spaces,
    Status,
    ToServer,
)

VALID = {
    "capture": ["s", 3, 0, 8, B2],
    "write": ["s", 3, B2, [0, 1], [b"x", b"y"]],
    "read": ["s", 0, [[0, 3], [5, 8]], False],
    "decided": ["s", 0, B1, [[0, 2]]],
    "trim": ["s", 5, 6],
    "listen": ["s", 0, 10, True],
    "unlisten": [7],
    "status": [],
    "spaces": ["a"],
    "trims": ["s", 0, 1],
}
ROUND_MAX, ROUND_ABSURD = b"\xff" * 16, (1 << 63).to_bytes(8, "big") + b"proposer"
EXTREMES = [
    -1, 0, 1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, (1 << 62) - 1, 1 << 62, (1 << 63) - 1,
    (1 << 64) - 1, -(1 << 63), True, None, 1.5, float("nan"), float("inf"), "", "x", "a\0b",
    "x" * 300, "\U0001f41b" * 255, b"", bytes(16), bytes(15) + b"\1", bytes(17), ROUND_MAX,
    ROUND_ABSURD, [], [[]], [[0]], [[0, 0]], [[3, 1]], [[0, 1 << 32]], [[0, (1 << 32) + 1]],
    [[-1, 2]], [[0, True]], [0], [-1], [1 << 32], [True], [b""], [""], [0] * 3, [[5, 6], [0, 1]],
    {}, {"a": 1},
]  # fmt: skip


def test_the_table_names_every_message_and_every_field():
    known = {}
    for message in typing.get_args(ClientMessage):
        info = msgspec.inspect.type_info(message)
        known[info.tag] = len(info.fields)
    assert {tag: len(fields) for tag, fields in VALID.items()} == known


def variants(tag):
    """The message with each field in turn replaced by each extreme, left out, or one too many."""
    fields = VALID[tag]
    yield fields
    for i in range(len(fields)):
        yield fields[:i]
        for extreme in EXTREMES:
            yield [*fields[:i], extreme, *fields[i + 1 :]]
    for extreme in EXTREMES:
        yield [*fields, extreme]


async def furnish(server):
    good = await Raw.connect(server.port)
    assert await good.call(Capture("mine", 0, 0, 8, B1))
    await good.call(Write("mine", 0, B1, [0, 1], [b"kept", b"too"]))
    return good


@pytest.mark.parametrize("tag", VALID)
async def test_whatever_a_field_says_only_that_message_fails(tag):
    async with serving() as server:
        good = await furnish(server)
        bad = await Raw.connect(server.port)
        refused = 0
        for number, fields in enumerate(variants(tag), 1):
            before = content(server.engine)
            bad.writer.write(frame(msgspec.msgpack.encode([number, [tag, *fields]])))
            bad.send(ToServer(1 << 40, Status()))
            async with asyncio.timeout(10):
                while True:
                    reply = await bad.reply()
                    assert reply is not None, f"{tag} {fields}: the connection was closed"
                    if reply.id == 1 << 40:
                        break
                    if reply.id == number and isinstance(reply.message, Failed):
                        refused += 1
                        assert reply.message.code == BAD_REQUEST, (fields, reply.message)
                        assert reply.message.text
                        assert content(server.engine) == before, f"{tag} {fields}"
        assert refused or tag == "status"
        await check_others(good)
        assert not server.failed.done()


async def check_others(good):
    """Nothing that was there is gone, and spaces go on with the rounds they would have had."""
    report = await good.call(Read("mine", 0, [(0, 8)]))
    assert [row.value for row in report.rows] == [b"kept", b"too"]
    assert isinstance(await good.call(Capture("elsewhere", 0, 0, 8, B3)), Promise)
    assert isinstance(await good.call(Capture("s", 7, 0, 8, B3)), Promise)
    assert isinstance(await good.call(Read("s", 1 << 40, [(0, 1)])), Report)
    named = await good.call(Spaces(""))
    assert set(named.names) <= {"mine", "s", "elsewhere", "x", "a\0b"}
    assert await good.call(Listen("s", 0, 1 << 62)) == Done()


# ---------------------------------------------------------------------------- what depends on state


async def ask(node, *messages):
    port = Port()
    for i, message in enumerate(messages):
        node.submit(port, i, message)
        await settled(node)
    return [port.of(i)[0] for i in range(len(messages))]


@pytest.mark.parametrize("kind", ["capture", "write"])
async def test_a_ballot_is_not_far_above_all_that_were_seen(kind):
    def at(number, segment=0):
        b = ballot(number, b"proposer")
        if kind == "capture":
            return Capture("s", segment, 0, 8, b)
        return Write("s", segment, b, [0], [b"v"])

    node = Node(MemoryEngine())
    below, limit, above = await ask(
        node, at(ROUNDS_JUMP + 1), at(ROUNDS_JUMP, 1), at(2 * ROUNDS_JUMP, 2)
    )
    assert below.code == BAD_REQUEST  # nothing was seen yet
    assert not isinstance(limit, Failed)
    assert not isinstance(above, Failed)  # from there on
    (again,) = await ask(node, at(3 * ROUNDS_JUMP + 1, 3))
    assert again.code == BAD_REQUEST
    await node.stop()


async def test_how_far_rounds_have_come_is_not_forgotten_and_costs_next_to_nothing(tmp_path):
    engine = MemoryEngine()
    node = Node(engine)
    step = ROUNDS_STEP
    for number in (1, 2, step, step + 1, step + 2, 2 * step):
        (answer,) = await ask(node, Capture("s", number, 0, 8, ballot(number, b"proposer")))
        assert isinstance(answer, Promise)
    rounds = engine.view.get("counters", b"rounds")
    assert int.from_bytes(rounds, "big") == step + 1
    again = Node(engine)
    (answer,) = await ask(again, Capture("t", 0, 0, 8, ballot(ROUNDS_JUMP + step + 1, b"proposer")))
    assert isinstance(answer, Promise)
    await again.stop()


async def test_a_trim_does_not_reach_far_beyond_what_is_known():
    node = Node(MemoryEngine())
    answers = await ask(
        node,
        Write("s", 9, B1, [0], [b"v"]),
        Trim("s", 0, 1 << 62),
        Trim("s", 0, 10 + TRIM_REACH + 1),
        Read("s", 9, [(0, 1)]),
        Trim("s", 0, 10 + TRIM_REACH),
        Read("s", 9, [(0, 1)]),
        Trim("s", 0, 10 + 2 * TRIM_REACH),
        Trim("t", 0, TRIM_REACH + 1),
    )
    assert [a.code for a in answers if isinstance(a, Failed)] == [BAD_REQUEST] * 3
    assert isinstance(answers[3], Report)
    assert (answers[4], answers[5], answers[6]) == (Done(), SegmentTrimmed(), Done())
    await node.stop()


@pytest.mark.parametrize("name", ["\ud800", "a\udfff", "é" * 128, "x" * 256])
async def test_a_name_that_cannot_be_stored_is_refused_in_the_own_process_too(name):
    """An embedded node gets messages that no decoder has seen."""
    node = Node(MemoryEngine())
    answers = await ask(
        node,
        Capture(name, 0, 0, 8, B1),
        Write(name, 0, B1, [0], [b"v"]),
        Read(name, 0, [(0, 1)]),
        Listen(name, 0, 1),
        Spaces(name),
        Trim(name, 0, 1),
    )
    assert {a.code for a in answers} == {BAD_REQUEST}
    await node.stop()


async def test_a_capture_under_the_unsafe_ballot_is_refused_as_ever():
    node = Node(MemoryEngine())
    (answer,) = await ask(node, Capture("s", 0, 0, 8, bytes(16)))
    assert answer == Reject(bytes(16))
    await node.stop()


async def test_a_value_too_large_has_its_own_code():
    node = Node(MemoryEngine(), max_value=10)
    (answer,) = await ask(node, Write("s", 0, B1, [0], [bytes(11)]))
    assert answer.code == TOO_LARGE
    await node.stop()
