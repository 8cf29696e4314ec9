"""What the provable style costs: the shipped `on_write` against one written for speed alone.

    python -m verification.price

The fast one has the lookup and the comparison in one function, without steps, and makes a new tuple
only when it has to.  Two ratios of times, rounds taken in turn: of the function alone, and of what
a server does with a write of 128 registers on a store in memory (no decoding, no network, no sync:
so the price in throughput is lower still).
"""

from __future__ import annotations

import asyncio
import sys
import timeit
from collections.abc import Callable
from typing import Any

from wormspace.paxos.acceptor import ACCEPTED, on_write
from wormspace.paxos.ballot import NOTHING, UNSAFE, ballot
from wormspace.paxos.messages import Capture, Row, Write
from wormspace.paxos.ranges import Range, overlay
from wormspace.server import acceptors
from wormspace.server.memory_engine import MemoryEngine

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
    """Seconds per call of each: the best of several rounds, taken in turn."""
    rounds = [(timeit.timeit(one, number=calls), timeit.timeit(two, number=calls))
              for _ in range(ROUNDS)]  # fmt: skip
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
    engine, marks = MemoryEngine(), acceptors.Marks()
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


def main() -> int:
    """Print the ratios."""
    for what, (shipped, fast) in {
        "on_write, one range": alone(1),
        "on_write, four ranges": alone(4),
        "a server's handling of a write": in_a_server(),
    }.items():
        print(
            f"{what}: {shipped * 1e9:.0f} ns as shipped, {fast * 1e9:.0f} ns by hand, "
            f"ratio {shipped / fast:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
