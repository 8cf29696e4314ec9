"""The floor: what transport and group-committed store can do with no protocol at all.

The same frames, the same socket code, the same batches and the same store, but the server puts
whatever comes, and the client counts two answers of three.  What a protocol adds is the distance
to this.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from wormspace.errors import ProtocolViolation
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import Trim, Write, Written
from wormspace.paxos.quorum import majority
from wormspace.server import config, runner, tables
from wormspace.server.config import ServerConfig
from wormspace.server.node import Node, Queued
from wormspace.store.engine import Batch
from wormspace.wire.link import Link, Outgoing, TcpLink
from wormspace.wire.membership import Membership
from wormspace.wire.messages import ServerMessage

BATCH = 512
MODULE = "benchmarks.floor"
"""What its servers run."""

BALLOT = ballot(1, b"theFloor")


class FloorNode(Node):
    """Puts what it is sent and answers when it is durable."""

    def _handle(
        self, batch: Batch, queued: list[Queued]
    ) -> tuple[list[ServerMessage], list[Write | Trim]]:
        answers: list[ServerMessage] = []
        for _, _, m, _ in queued:
            if isinstance(m, Write):
                prefix = tables.segment_key(b"\0\0\0\0", m.segment)
                keys = tables.row_keys(prefix, m.offsets)
                held = [m.ballot + value for value in m.values]
                batch.put_many(tables.ROWS, zip(keys, held, strict=True))
            answers.append(Written([]))
        return answers, []


class FloorClient:
    """Sends each write to every server, in batches per turn of the loop, and counts answers."""

    def __init__(self, links: list[Link]) -> None:
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._next = 1
        self._waiting: dict[int, tuple[list[asyncio.Future[None]], list[int]]] = {}
        self._offsets: list[int] = []
        self._values: list[bytes] = []
        self._futures: list[asyncio.Future[None]] = []
        for server, link in enumerate(links):
            link.start(self, server)

    def write(self, offset: int, value: bytes) -> asyncio.Future[None]:
        """Done when a majority of the servers has it."""
        future: asyncio.Future[None] = self._loop.create_future()
        if not self._futures:
            self._loop.call_soon(self._flush)
        self._offsets.append(offset)
        self._values.append(value)
        self._futures.append(future)
        if len(self._futures) >= BATCH:
            self._send()
        return future

    def _flush(self) -> None:
        if self._futures:
            self._send()

    def _send(self) -> None:
        offsets, self._offsets = self._offsets, []
        values, self._values = self._values, []
        futures, self._futures = self._futures, []
        request = Outgoing(self._next, Write("floor", 0, BALLOT, offsets, values))
        self._waiting[self._next] = (futures, [0])
        self._next += 1
        for link in self._links:
            link.post(request)

    def on_up(self, server: int) -> None:
        """Nothing to send again."""

    def on_down(self, server: int) -> None:
        """A floor has no faults."""

    def on_message(self, server: int, request_id: int, message: ServerMessage) -> None:
        entry = self._waiting.get(request_id)
        if entry is None:
            return
        futures, count = entry
        if not isinstance(message, Written):
            raise ProtocolViolation(f"the floor's server refused: {message}")
        count[0] += 1
        if count[0] == majority(len(self._links)):
            del self._waiting[request_id]
            for future in futures:
                if not future.done():
                    future.set_result(None)


@asynccontextmanager
async def clients(groups: Sequence[Sequence[ServerConfig]]) -> AsyncIterator[list[FloorClient]]:
    """A client for each group of the floor's servers, connected to all of its group."""
    size = len({server.name for group in groups for server in group})
    links = [_links(group, size) for group in groups]
    every = [link for group in links for link in group]
    try:
        found = [FloorClient(group) for group in links]
        async with asyncio.timeout(30):
            while not all(link.up for link in every):  # noqa: ASYNC110 - links have no event
                await asyncio.sleep(0.01)
        yield found
    finally:
        for link in every:
            await link.close()


def _links(group: Sequence[ServerConfig], size: int) -> list[Link]:
    rng, members = random.Random(0), Membership(0, 1, size)
    return [TcpLink(s.host, s.port, members, cluster="", client="floor", rng=rng) for s in group]


async def _serve(path: Path, name: str) -> None:
    cluster = config.load(path)
    await runner.serve(cluster, cluster.find(name), path.parent, node_type=FloorNode)


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]), sys.argv[2]))
