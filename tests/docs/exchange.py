"""A conversation with a real server, written out byte by byte as docs/protocol.md shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec

from wormspace.paxos.ballot import UNSAFE, ballot
from wormspace.paxos.messages import Capture, Decided, Read, Trim, Write
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.listener import Server
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire import codec
from wormspace.wire.frames import HEADER_BYTES
from wormspace.wire.messages import Hello, ToServer

BALLOT = ballot(1, bytes.fromhex("a1a2a3a4a5a6a7a8"))

# What the client says, and why; None where the server says nothing to it.
STEPS: list[tuple[str, Hello | ToServer, str | None]] = [
    (
        "The client greets.",
        Hello([1], "demo", "c0ffee"),
        "The server is who was meant; it has chosen version 1.",
    ),
    (
        "Capture registers 0 to 7 of segment 0 in round 1.",
        ToServer(1, Capture("orders", 0, 0, 8, BALLOT)),
        "Promised. Nothing had been accepted there, and there is no further page.",
    ),
    (
        "Write register 0 under that ballot.",
        ToServer(2, Write("orders", 0, BALLOT, [0], [b"hi"])),
        "Accepted, and on disk: no register was refused.",
    ),
    (
        "A majority has answered so: tell the servers that it is decided. No answer.",
        ToServer(0, Decided("orders", 0, BALLOT, [(0, 1)])),
        None,
    ),
    (
        "Read registers 0 and 1.",
        ToServer(3, Read("orders", 0, [(0, 2)])),
        "Register 0 is decided: this server's word is enough. Register 1 is empty here.",
    ),
    (
        "An unsafe write to register 1, which is captured.",
        ToServer(4, Write("orders", 0, UNSAFE, [1], [b"late"])),
        "Refused: register 1 has promised the ballot of the capture.",
    ),
    (
        "The trim of segment 0 is decided: delete it.",
        ToServer(5, Trim("orders", 0, 1)),
        "Done, and on disk.",
    ),
    (
        "Read it again.",
        ToServer(6, Read("orders", 0, [(0, 1)])),
        "SegmentTrimmed, for ever.",
    ),
]


async def talk() -> list[tuple[str, str, Any, bytes]]:
    """Who says what (`C` or `S`), why, as which message, in which bytes."""
    server = Server(ServerIdentity("demo", "s1", 0, 1, 3), MemoryEngine(), Limits())
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said: list[tuple[str, str, Any, bytes]] = []
    for why, message, answer in STEPS:
        frame = codec.encode(message)
        said.append(("C", why, message, frame))
        writer.write(frame)
        if answer is None:
            continue
        header = await reader.readexactly(HEADER_BYTES)
        body = await reader.readexactly(int.from_bytes(header, "big"))
        greeting = isinstance(message, Hello)
        decoded = codec.decode_greeting(body) if greeting else codec.decode_reply(body)
        said.append(("S", answer, decoded, header + body))
    writer.close()
    await server.stop()
    return said


def render(said: list[tuple[str, str, Any, bytes]]) -> str:
    """The conversation as text."""
    parts = []
    for who, why, message, frame in said:
        arrow = "client → server" if who == "C" else "server → client"
        rows = [(frame[:HEADER_BYTES], f"{len(frame) - HEADER_BYTES} bytes follow")]
        rows += _annotate(frame[HEADER_BYTES:], message)
        parts.append("\n".join([f"{arrow}   {why}", *(_row(raw, note) for raw, note in rows)]))
    return "\n\n".join(parts) + "\n"


def _row(raw: bytes, note: str) -> str:
    return f"  {raw.hex(' '):<54} {note}".rstrip()


def _annotate(body: bytes, message: Any) -> list[tuple[bytes, str]]:
    """Every element of a message: its bytes, and what they mean."""
    rows: list[tuple[bytes, str]] = []
    at = 0
    for value, label, depth in _elements(message, "", 0):
        size = _head(value)
        note = f"{'  ' * depth}{label}: " if label else "  " * depth
        note += f"array of {len(value)}" if isinstance(value, list) else _shown(value)
        rows.append((body[at : at + size], note))
        at += size
    if at != len(body):
        raise ValueError("the annotation does not cover the message")
    return rows


def _elements(item: Any, label: str, depth: int) -> Iterator[tuple[Any, str, int]]:
    """The leaves and array heads of a message, in the order of its bytes."""
    if isinstance(item, msgspec.Struct):
        tag = item.__struct_config__.tag
        children = [(getattr(item, f), f) for f in item.__struct_fields__]
        items = ([(tag, "tag")] if tag else []) + children
    elif isinstance(item, list | tuple):
        items = [(child, "") for child in item]
    else:
        yield item, label, depth
        return
    yield [None] * len(items), label, depth
    for child, name in items:
        yield from _elements(child, name, depth + 1)


def _head(value: Any) -> int:
    """How many bytes a leaf, or the head of an array, takes."""
    if isinstance(value, list):
        return len(msgspec.msgpack.encode(value)) - len(value)  # each None is one byte
    return len(msgspec.msgpack.encode(value))


def _shown(value: Any) -> str:
    return "empty" if value == b"" else repr(value) if not isinstance(value, bytes) else _raw(value)


def _raw(value: bytes) -> str:
    if value == BALLOT:
        return "round 1, proposer a1a2a3a4a5a6a7a8"
    return "unsafe" if value == UNSAFE else repr(value)
