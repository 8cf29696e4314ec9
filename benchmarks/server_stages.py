"""What each stage of a server costs for one register, alone in a process.

    python benchmarks/server_stages.py

Messages for 256 registers of 100 bytes go through decoder, door, handler, store and encoder, one
after the other, without sockets and without waiting for the disk.  Of each stage the fastest rounds
count, so that a busy machine changes little: compare the lines of two versions.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from wormspace.addresses import Span
from wormspace.paxos.messages import COMPLETE, Capture, Decided, Promise, Read, Report, Write
from wormspace.runtime.collector import collect_seldom
from wormspace.server import acceptors
from wormspace.server.door import Door
from wormspace.server.marks import Marks
from wormspace.server.storage import AcceptorStore
from wormspace.store.engine import Engine
from wormspace.wire import codec
from wormspace.wire.frames import HEADER_BYTES
from wormspace.wire.messages import ClientMessage, ToClient, ToServer

SPACE, SEGMENT = "stages", 0
BALLOT = (1).to_bytes(8, "big") + bytes(8)
VALUE = bytes(100)
SIZE, ROUNDS, FASTEST = 256, 200, 5


class Stages:
    """Seconds by stage, and the clock that fills them."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._at = 0.0

    def begin(self) -> None:
        """A message begins."""
        self._at = time.perf_counter()

    def end(self, stage: str) -> None:
        """A stage is over, and the next one begins."""
        now = time.perf_counter()
        self._seconds[stage].append(now - self._at)
        self._at = time.perf_counter()

    def show(self, what: str) -> None:
        """Print µs per register."""
        costs = [
            f"{stage} {sum(sorted(seconds)[:FASTEST]) / FASTEST / SIZE * 1e6:.2f}"
            for stage, seconds in self._seconds.items()
        ]
        print(f"{what}: {', '.join(costs)}", flush=True)


async def writes(engine: Engine, door: Door) -> None:
    """Registers that nobody wrote before, in order."""
    stages = Stages()
    for start in range(0, ROUNDS * SIZE, SIZE):
        offsets = list(range(start, start + SIZE))
        body = packed(Write(SPACE, SEGMENT, BALLOT, offsets, [VALUE] * SIZE))
        stages.begin()
        m = codec.decode_request(body).message
        stages.end("decode")
        if not isinstance(m, Write) or door.problem(m):
            raise RuntimeError("the write was not let in")
        stages.end("door")
        batch = engine.begin()
        acceptors.write(batch, m)
        stages.end("handle")
        await engine.commit(batch)
        stages.end("commit")
    stages.show("write")


def reads(engine: Engine, door: Door, marks: Marks, *, in_a_row: bool) -> None:
    """Registers that are known as decided: neighbours, or anywhere."""
    rng = random.Random(0)
    stages = Stages()
    for _ in range(ROUNDS):
        start = rng.randrange((ROUNDS - 1) * SIZE)
        spans: list[Span] = [(start, start + SIZE)]
        if not in_a_row:
            spans = [(at, at + 1) for at in sorted(rng.sample(range(ROUNDS * SIZE), SIZE))]
        body = packed(Read(SPACE, SEGMENT, spans))
        stages.begin()
        m = codec.decode_request(body).message
        stages.end("decode")
        if not isinstance(m, Read) or door.problem(m):
            raise RuntimeError("the read was not let in")
        stages.end("door")
        report = acceptors.read(engine.view, marks, m)
        stages.end("handle")
        answer = codec.encode(ToClient(1, report))[HEADER_BYTES:]
        stages.end("encode")
        if not isinstance(report, Report) or not all(row.decided for row in report.rows):
            raise RuntimeError("the registers are not known as decided")
        stages.begin()
        codec.decode_reply(answer)
        stages.end("decode by the client")
    stages.show("read in a row" if in_a_row else "read at random")


def packed(message: ClientMessage) -> bytes:
    """The body of a request's frame."""
    return codec.encode(ToServer(1, message))[HEADER_BYTES:]


async def main(path: Path) -> None:
    """All of it."""
    engine = AcceptorStore(path, durability="os")
    collect_seldom()
    marks, door = Marks(), Door(1 << 20)
    door.learn_rounds(engine.view)
    batch = engine.begin()
    captured = acceptors.capture(batch, marks, Capture(SPACE, SEGMENT, 0, 1 << 20, BALLOT))
    if not isinstance(captured, Promise) or captured.next != COMPLETE:
        raise RuntimeError("the capture was not granted")
    await engine.commit(batch)
    await writes(engine, door)
    marks.learn(engine.view, Decided(SPACE, SEGMENT, BALLOT, [(0, ROUNDS * SIZE)]))
    reads(engine, door, marks, in_a_row=True)
    reads(engine, door, marks, in_a_row=False)
    engine.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=".") as directory:
        asyncio.run(main(Path(directory) / "store"))
