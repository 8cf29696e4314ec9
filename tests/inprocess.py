"""A wormserver in the test's own process, and a client that speaks bytes."""

from __future__ import annotations

import asyncio
import contextlib

from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.listener import Server
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire import codec
from wormspace.wire.frames import FrameDecoder
from wormspace.wire.messages import PROTOCOL_VERSIONS, Hello, ToServer

IDENTITY = ServerIdentity("test-cluster", "s1")


@contextlib.asynccontextmanager
async def serving(engine=None, limits: Limits | None = None, identity=IDENTITY, port=0):
    """A server on a port, by default one of its own.

    `server.port` and `server.engine` say which, and on what.
    """
    engine = engine if engine is not None else MemoryEngine()
    server = Server(identity, engine, limits or Limits())
    server.engine = engine
    server.port = await server.start("127.0.0.1", port)
    try:
        yield server
    finally:
        if not getattr(server, "stopped", False):
            await server.stop()


class Raw:
    """A connection on which a test sends what it likes."""

    def __init__(self, reader, writer) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = FrameDecoder(1 << 30)
        self._bodies: list[bytes] = []
        self._ids = 0

    @classmethod
    async def connect(cls, port: int, greet: bool = True) -> Raw:
        raw = cls(*await asyncio.open_connection("127.0.0.1", port))
        if greet:
            raw.send(Hello(list(PROTOCOL_VERSIONS), "", "raw"))
            raw.welcome = await raw.greeting()
        return raw

    def send(self, *messages) -> None:
        self.writer.write(b"".join(codec.encode(m) for m in messages))

    def request(self, message) -> int:
        """Send a request; returns its id."""
        self._ids += 1
        self.send(ToServer(self._ids, message))
        return self._ids

    async def body(self) -> bytes | None:
        """The next frame's body; None when the server has closed the connection."""
        while not self._bodies:
            try:
                data = await self.reader.read(1 << 16)
            except ConnectionError:
                return None
            if not data:
                return None
            self._bodies += self._decoder.feed(data)
        return self._bodies.pop(0)

    async def greeting(self):
        body = await self.body()
        return None if body is None else codec.decode_greeting(body)

    async def reply(self):
        """The next answer or push; None when the server has closed the connection."""
        body = await self.body()
        return None if body is None else codec.decode_reply(body)

    async def call(self, message):
        """Send a request and return its answer."""
        sent = self.request(message)
        reply = await self.reply()
        assert reply is not None, "the server closed the connection"
        assert reply.id == sent
        return reply.message

    async def rest(self) -> list:
        """Every answer until the server closes the connection."""
        out = []
        while (reply := await self.reply()) is not None:
            out.append(reply)
        return out

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


TABLES = ("identity", "spaces", "rows", "promises", "decided", "trimmed", "garbage", "counters")


def content(engine) -> dict[str, list[tuple[bytes, bytes]]]:
    """Everything a store holds."""
    return {table: list(engine.view.scan(table, b"", b"\xff" * 300)) for table in TABLES}
