"""What the provable style costs: the shipped `on_write` against one written for speed alone.

    python -m verification.price

The fast one has the lookup and the comparison in one function, without steps, and makes a new tuple
only when it has to.  Three ratios, rounds taken in turn: of the function alone; of what a server
does with a write of 128 registers on a store in memory; and of whole writes, by a client and three
servers in one process: CPU time per register, with the client's `accept` by hand, too.  There is
no coding, network or sync in any of it, so that the price in throughput is lower still.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
import timeit
from collections.abc import Callable
from typing import Any

from wormspace.paxos import accept
from wormspace.paxos.accept import Accept
from wormspace.paxos.acceptor import ACCEPTED, on_write
from wormspace.paxos.ballot import NOTHING, UNSAFE, ballot
from wormspace.paxos.effects import Send
from wormspace.paxos.messages import Capture, RefusedWrite, Row, Write
from wormspace.paxos.ranges import Range, overlay
from wormspace.registers.paxos.client import PaxosRegisters
from wormspace.registers.paxos.partition import Partition
from wormspace.server import acceptors
from wormspace.server.local import LocalLink
from wormspace.server.marks import Marks
from wormspace.server.node import Node
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.link import Link

ROUNDS = 7


def inlined(
    promises: tuple[Range, ...], row: Row, offset: int, ballot: bytes, value: bytes
) -> tuple[tuple[Range, ...], Row, bytes]:
    """`on_write`, by hand."""
    promised = UNSAFE
    for r in promises:
        if r.lo <= offset < r.hi and r.ballot > promised:
            promised = r.ballot
    if ballot < promised:
        return promises, row, promised
    if ballot == row.ballot:
        return promises, row, ACCEPTED if value == row.value else ballot
    if promised < ballot:
        promises = overlay(promises, Range(offset, offset + 1, ballot))
    return promises, Row(offset, ballot, value), ACCEPTED


def in_turn(one: Callable[[], Any], two: Callable[[], Any], calls: int) -> tuple[float, float]:
    """CPU seconds per call of each: the best of several rounds, taken in turn."""
    rounds = [
        [timeit.timeit(each, timer=time.process_time, number=calls) for each in (one, two)]
        for _ in range(ROUNDS)
    ]
    return min(r[0] for r in rounds) / calls, min(r[1] for r in rounds) / calls


def alone(ranges: int) -> tuple[float, float]:
    """Per accepted write, shipped and by hand, with so many ranges in the slice."""
    mine = ballot(3, b"proposer")
    promises = tuple(Range(256 * i, 256 * (i + 1), mine) for i in range(ranges))
    row, value = Row(7, NOTHING, b""), bytes(100)
    assert on_write(promises, row, 7, mine, value) == inlined(promises, row, 7, mine, value)
    return in_turn(
        lambda: on_write(promises, row, 7, mine, value),
        lambda: inlined(promises, row, 7, mine, value),
        20_000,
    )


def in_a_server() -> tuple[float, float]:
    """Per register of a write message of 128, handled on a store in memory."""
    mine, registers = ballot(3, b"proposer"), 128
    engine, marks = MemoryEngine(), Marks()
    batch = engine.begin()
    acceptors.capture(batch, marks, Capture("space", 0, 0, 1024, mine))
    asyncio.run(engine.commit(batch))
    message = Write("space", 0, mine, list(range(registers)), [bytes(100)] * registers)

    def handle(handler: Any) -> Callable[[], Any]:
        def run() -> None:
            vars(acceptors)["on_write"] = handler
            acceptors.write(engine.begin(), message)

        return run

    one, two = in_turn(handle(on_write), handle(inlined), 200)
    vars(acceptors)["on_write"] = on_write
    return one / registers, two / registers


_NAMES = ("begin", "on_written", "finished", "lost", "contested")
_SHIPPED: dict[str, Any] = {name: getattr(accept, name) for name in _NAMES}


def _on_written(w: Accept, server: int, refused: list[RefusedWrite]) -> Accept:
    """`accept.on_written`, by hand, for the common case."""
    if refused or w.answered >> server & 1:
        done: Accept = _SHIPPED["on_written"](w, server, refused)
        return done
    return Accept(
        w.servers, w.space, w.segment, w.ballot, w.offsets, w.values, w.answered | 1 << server,
        w.refusals,
    )  # fmt: skip


BY_HAND: dict[str, Any] = {
    "begin": lambda w: _SHIPPED["begin"](w) if w.answered else _first(w),
    "on_written": _on_written,
    "finished": lambda w: (
        _SHIPPED["finished"](w) if w.refusals else 2 * w.answered.bit_count() > w.servers
    ),
    "lost": lambda w: _SHIPPED["lost"](w) if w.refusals else (),
    "contested": lambda w: _SHIPPED["contested"](w) if w.refusals else (),
}


def _first(w: Accept) -> tuple[Send, ...]:
    message = Write(w.space, w.segment, w.ballot, list(w.offsets), list(w.values))
    return tuple([Send(i, message) for i in range(w.servers)])


async def _write_segments(registers: PaxosRegisters, first: int, segments: int) -> float:
    """CPU seconds per register: segments captured, and then written 128 registers at a time."""
    spent, value, size = 0.0, bytes(100), 1024
    for number in range(first, first + segments):
        captured = await registers.capture(("space", number), 0, size, _later())
        began = time.process_time()
        for start in range(0, size, 128):
            await asyncio.gather(
                *[
                    registers.write(("space", number), captured.token, offset, value, _later())
                    for offset in range(start, start + 128)
                ]
            )
        spent += time.process_time() - began
    return spent / (segments * size)


def _later() -> float:
    return asyncio.get_running_loop().time() + 60


async def _whole() -> tuple[float, float]:
    links: list[Link] = [LocalLink(Node(MemoryEngine()), f"server {i}") for i in range(3)]
    registers = PaxosRegisters([Partition(0, links)], random.Random(1))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    try:
        for k in range(2 * ROUNDS):
            shipped = k % 2 == 0
            vars(acceptors)["on_write"] = on_write if shipped else inlined
            vars(accept).update(_SHIPPED if shipped else BY_HAND)
            seconds[shipped].append(await _write_segments(registers, 4 * k, 4))
    finally:
        vars(acceptors)["on_write"] = on_write
        vars(accept).update(_SHIPPED)
        await registers.close()
    return min(seconds[True]), min(seconds[False])


def whole() -> tuple[float, float]:
    """Per register of whole writes, by one client and three servers in this process."""
    return asyncio.run(_whole())


def main() -> int:
    """Print the ratios."""
    for what, (shipped, fast) in {
        "on_write, one range": alone(1),
        "on_write, four ranges": alone(4),
        "a server's handling of a write": in_a_server(),
        "a whole write, client and three servers": whole(),
    }.items():
        print(
            f"{what}: {shipped * 1e9:.0f} ns as shipped, {fast * 1e9:.0f} ns by hand, "
            f"ratio {shipped / fast:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
