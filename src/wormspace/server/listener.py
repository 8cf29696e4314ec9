"""The wormserver's socket: greeting, frames, limits, back-pressure, a graceful stop.

A connection is read no faster than its requests can be taken in and its answers sent: it is
paused while the store's backlog is above its limit, and while the client is slow to read.  What is
malformed closes the connection after a word of explanation, and touches nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import cast

import msgspec

from wormspace.errors import StoreError
from wormspace.server.node import Node
from wormspace.store.engine import Engine
from wormspace.wire import codec
from wormspace.wire.frames import MAX_FRAME_BYTES, FrameDecoder, FrameTooLarge
from wormspace.wire.keepalive import keep_alive
from wormspace.wire.messages import (
    BAD_REQUEST,
    ONE_WAY,
    PROTOCOL_VERSIONS,
    Downward,
    Failed,
    Hello,
    Refusal,
    ToClient,
    ToServer,
    Welcome,
)

log = logging.getLogger("wormspace.server")

FLUSH_BYTES = 256 * 1024

LINGER_S = 1.0
"""How long a client that was told to go away may take to hear it."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server puts up with; sizes in bytes, times in seconds."""

    max_frame: int = MAX_FRAME_BYTES
    max_value: int = 1 << 20
    max_connections: int = 4096
    max_listeners: int = 16384
    max_backlog: int = 64 << 20
    max_unsent: int = 4 << 20
    greeting_timeout_s: float = 5.0


class ServerIdentity(msgspec.Struct, frozen=True):
    """Who a server is: the cluster's id, its name in it, its replica set and that one's size."""

    cluster: str
    server: str
    partition: int = 0
    partitions: int = 1
    replicas: int = 1


class Server:
    """A listening wormserver.

    Args:
        identity: told to every client; clients of another cluster are refused.
        engine: the store; the server closes it.
    """

    def __init__(
        self,
        identity: ServerIdentity,
        engine: Engine,
        limits: Limits,
        node_type: type[Node] = Node,
    ) -> None:
        self.identity = identity
        self.limits = limits
        self.failed: asyncio.Future[StoreError] = asyncio.get_running_loop().create_future()
        self.node = node_type(
            engine,
            max_value=limits.max_value,
            max_listeners=limits.max_listeners,
            on_fatal=self._on_fatal,
        )
        self.node.more_figures = self.figures
        self.connections: dict[_Connection, None] = {}  # in order, so that runs repeat
        self.refused = 0
        self.malformed = 0
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Begin to listen; returns the port, which the system chooses if it was 0."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Connection(self), host, port)
        actual = int(self._listener.sockets[0].getsockname()[1])
        log.info(
            "listening",
            extra={"host": host, "port": actual, "server": self.identity.server},
        )
        return actual

    async def stop(self) -> None:
        """Stop listening, answer what was taken in, close connections and store."""
        if self._listener:
            self._listener.close()
        await self.node.stop()
        for connection in list(self.connections):
            connection.close()
        log.info("stopped", extra={"server": self.identity.server})

    def figures(self) -> dict[str, int]:
        """What the socket side adds to the node's figures."""
        return {
            "connections": len(self.connections),
            "connections_refused": self.refused,
            "malformed": self.malformed,
        }

    def _on_fatal(self, error: StoreError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)


class _Connection(asyncio.Protocol):
    """One client: a `node.Port`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._node = server.node
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder(server.limits.max_frame)
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self._requests: deque[tuple[ToServer, int]] = deque()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flushing = False
        self._slow = False
        self._paused = False
        self._waiting = False
        self._over = False
        self.client = ""

    # ------------------------------------------------------------ node.Port

    def answer(self, request_id: int, message: Downward) -> None:
        if request_id == ONE_WAY or self._transport is None or self._over:
            return
        frame = codec.encode(ToClient(request_id, message))
        self._out.append(frame)
        self._out_bytes += len(frame)
        if self._out_bytes >= FLUSH_BYTES:
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_later)

    def congested(self) -> bool:
        return self._transport is None or (
            self._transport.get_write_buffer_size() + self._out_bytes
            > self._server.limits.max_unsent
        )

    def _flush_later(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        if out and self._transport is not None and not (self._over or self._transport.is_closing()):
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        keep_alive(transport)
        self._transport.set_write_buffer_limits(high=self._server.limits.max_unsent // 4)
        if len(self._server.connections) >= self._server.limits.max_connections:
            self._refuse("busy", "the server has as many connections as it allows")
            return
        self._server.connections[self] = None
        self._loop.call_later(self._server.limits.greeting_timeout_s, self._check_greeted)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._requests.clear()
        self._server.connections.pop(self, None)
        self._node.forget(self)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            for body in self._decoder.feed(data):
                if self._greeted:
                    self._take(body)
                elif not self._on_hello(codec.decode_hello(body)):
                    return
        except (codec.BadMessage, FrameTooLarge) as e:
            self._pump()
            self._malformed(str(e))
            return
        self._pump()

    def _take(self, body: bytes) -> None:
        """Queue a request; one that breaks a rule of the protocol is answered for itself."""
        try:
            self._requests.append((codec.decode_request(body), len(body)))
        except codec.BadRequest as e:
            self._node.counters.bad_requests += 1
            self.answer(e.id, Failed(BAD_REQUEST, str(e)))

    def pause_writing(self) -> None:
        self._slow = True
        self._read_or_pause()

    def resume_writing(self) -> None:
        self._slow = False
        self._pump()

    def close(self) -> None:
        """Send what is ready, then close."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    # ------------------------------------------------------------ requests

    def _pump(self) -> None:
        """Hand requests to the node, as far as backlog and a slow reader allow."""
        node = self._node
        limit = self._server.limits.max_backlog
        while self._requests and not self._slow:
            if node.backlog_bytes > limit:
                if not self._waiting:
                    self._waiting = True
                    node.on_drained.append(self._on_drained)
                break
            request, size = self._requests.popleft()
            node.submit(self, request.id, request.message, size)
        self._read_or_pause()

    def _on_drained(self) -> None:
        self._waiting = False
        self._pump()

    def _read_or_pause(self) -> None:
        want_pause = self._slow or bool(self._requests)
        if self._transport is None or self._over or want_pause == self._paused:
            return
        self._paused = want_pause
        if want_pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # ------------------------------------------------------------ greeting and refusal

    def _on_hello(self, hello: Hello) -> bool:
        identity = self._server.identity
        spoken = sorted(set(hello.versions) & set(PROTOCOL_VERSIONS))
        if not spoken:
            ours = ", ".join(map(str, PROTOCOL_VERSIONS))
            theirs = ", ".join(map(str, hello.versions)) or "none"
            self._refuse(
                "version", f"this server speaks protocol version {ours}, the client {theirs}"
            )
            return False
        if hello.cluster not in ("", identity.cluster):
            self._refuse(
                "cluster",
                f"this is server {identity.server!r} of cluster {identity.cluster!r}, "
                f"not of {hello.cluster!r}",
            )
            return False
        self._greeted = True
        self.client = hello.client
        limits = self._server.limits
        welcome = Welcome(
            spoken[-1],
            identity.cluster,
            identity.server,
            identity.partition,
            identity.partitions,
            identity.replicas,
            limits.max_frame,
            limits.max_value,
        )
        if self._transport is not None:
            self._transport.write(codec.encode(welcome))
        return True

    def _check_greeted(self) -> None:
        if not self._greeted and self._transport is not None and not self._over:
            self._refuse("greeting", "no greeting came in time")

    def _refuse(self, code: str, text: str) -> None:
        self._server.refused += 1
        self._log("refused", text)
        if self._transport is not None:
            self._say_goodbye(self._transport, codec.encode(Refusal(code, text)))

    def _say_goodbye(self, transport: asyncio.Transport, last_word: bytes) -> None:
        """Send a last word, and take in and drop what still comes until the client goes too.

        To close while there is something unread resets the connection, and the client would never
        see why.
        """
        self._flush()
        self._over = True
        self._server.connections.pop(self, None)
        transport.write(last_word)
        if transport.can_write_eof():
            transport.write_eof()
        if self._paused:
            self._paused = False
            transport.resume_reading()
        self._loop.call_later(LINGER_S, self._abort)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _malformed(self, text: str) -> None:
        self._server.malformed += 1
        self._log("malformed", text)
        if self._transport is None:
            return
        if self._greeted:
            problem = ToClient(ONE_WAY, Failed(BAD_REQUEST, text))
            self._say_goodbye(self._transport, codec.encode(problem))
        else:
            self._refuse("malformed", text)

    def _log(self, event: str, text: str) -> None:
        peer = self._transport.get_extra_info("peername") if self._transport else None
        log.warning(event, extra={"peer": str(peer), "client": self.client, "reason": text})
