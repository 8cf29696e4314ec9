"""One client's connection: greeting, frames, back-pressure, the last word.

A connection is read no faster than its requests can be taken in and its answers sent: it is paused
while the store's backlog is above its limit, while the client is slow to read, and while all of
them together hold too much (`inflow`).  What breaks a rule is answered for itself; what cannot be
understood closes the connection after a word of explanation.  Neither touches anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol, cast

from wormspace.knobs import KNOBS
from wormspace.paxos.messages import Write
from wormspace.server.complaints import Complaints
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.node import Node
from wormspace.wire import codec
from wormspace.wire.frames import HEADER_BYTES, FrameDecoder, FrameTooLarge
from wormspace.wire.inflow import Inflow
from wormspace.wire.keepalive import keep_alive
from wormspace.wire.messages import (
    BAD_REQUEST,
    ONE_WAY,
    PROTOCOL_VERSIONS,
    TOO_MANY,
    Downward,
    Failed,
    Hello,
    Refusal,
    ToClient,
    Welcome,
)

log = logging.getLogger("wormspace.server")

GREETING_BYTES = 4096
"""The longest greeting: two names of 255 characters, and room for credentials."""

REQUEST_BYTES = 512
"""What a request takes in memory beside the bytes of its message."""

REGISTER_BYTES = 96
"""And each register of a write."""

LINGER_S = 1.0
"""How long a client that was told to go away may take to hear it."""

MAX_LEAVING = 64
"""So many may take that long at a time; others are cut off: each has a descriptor."""


class Host(Protocol):
    """The server, as a connection sees it: what all of them share."""

    identity: ServerIdentity
    limits: Limits
    node: Node
    connections: dict[Connection, None]
    leaving: dict[Connection, None]
    inflow: Inflow
    complaints: Complaints
    refused: int
    malformed: int


class Connection(asyncio.Protocol):
    """One client: a `node.Port`."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._node = server.node
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder(server.limits.max_frame)
        self._greeting = b""
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self._bodies: deque[bytes] = deque()
        self._bodies_bytes = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flushing = False
        self._slow = False
        self._paused = False
        self._waiting = False
        self._pausing = False
        self._over = False
        self.client = ""

    # ------------------------------------------------------------ node.Port

    def answer(self, request_id: int, message: Downward) -> None:
        if request_id == ONE_WAY or self._transport is None or self._over:
            return
        try:
            frame = codec.encode(ToClient(request_id, message))
        except Exception:
            # Others wait for their answers behind this one.
            log.exception("an answer could not be encoded")
            self._transport.abort()
            return
        self._out.append(frame)
        self._out_bytes += len(frame)
        if self._out_bytes >= KNOBS.server_flush_bytes:
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
            self._transport.write(b"".join(out))

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
        self._server.leaving.pop(self, None)
        self._drop()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            if not self._greeted:
                data = self._take_greeting(data)
            for body in self._decoder.feed(data):
                self._bodies.append(body)
                self._bodies_bytes += len(body)
        except (codec.BadMessage, FrameTooLarge) as e:
            self._malformed(str(e))
            return
        self._pump()

    def _take_greeting(self, data: bytes) -> bytes:
        """Take the greeting off the stream, if it is all there; returns what follows it.

        Raises:
            FrameTooLarge: it announces more than any greeting has.
            BadMessage: it is none.
        """
        data = self._greeting = self._greeting + data
        size = int.from_bytes(data[:HEADER_BYTES], "big")
        if len(data) >= HEADER_BYTES and size > GREETING_BYTES:
            raise FrameTooLarge(size, GREETING_BYTES)
        end = HEADER_BYTES + size
        if len(data) < max(end, HEADER_BYTES):
            return b""
        self._greeting = b""
        self._on_hello(codec.decode_hello(data[HEADER_BYTES:end]))
        return b"" if self._over else data[end:]

    def pause_writing(self) -> None:
        self._slow = True
        self.read_or_pause()

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
        """Hand requests to the node, as far as backlog and a slow reader allow.

        Up to a number of them at a time: others have their turn in between.
        """
        node = self._node
        limit = self._server.limits.max_backlog
        turn = KNOBS.server_turn_requests
        while self._bodies and not (self._slow or self._over or self._pausing):
            if node.backlog_bytes > limit:
                if not self._waiting:
                    self._waiting = True
                    node.on_drained.append(self._on_drained)
                break
            if turn == 0:
                self._pausing = True
                self._loop.call_soon(self._go_on)
                break
            turn -= 1
            body = self._bodies.popleft()
            self._bodies_bytes -= len(body)
            if not self._hand_in(body):
                return
        self._server.inflow.holds(self, self._bodies_bytes + self._decoder.held)
        self.read_or_pause()

    def _hand_in(self, body: bytes) -> bool:
        """Decode a request and hand it to the node; false if the connection is over."""
        try:
            request = codec.decode_request(body)
        except codec.BadRequest as e:
            self._node.counters.bad_requests += 1
            self.answer(e.id, Failed(BAD_REQUEST, str(e)))
        except codec.BadMessage as e:
            self._malformed(str(e))
            return False
        else:
            message, size = request.message, len(body) + REQUEST_BYTES
            if isinstance(message, Write):
                size += REGISTER_BYTES * len(message.offsets)
            self._node.submit(self, request.id, message, size)
        return True

    def _on_drained(self) -> None:
        self._waiting = False
        self._pump()

    def _go_on(self) -> None:
        self._pausing = False
        self._pump()

    def read_or_pause(self) -> None:
        """Read, or pause, as is right now."""
        want_pause = self._slow or bool(self._bodies) or not self._server.inflow.may_read(self)
        if self._transport is None or self._over or want_pause == self._paused:
            return
        self._paused = want_pause
        if want_pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def evict(self) -> None:
        """Disconnect it: it holds the most of what the server has no room for."""
        text = "the server has no room for so much of messages that are not whole or not answered"
        self._complain("evicted", TOO_MANY, text)
        if self._transport is not None:
            self._say_goodbye(
                self._transport, codec.encode(ToClient(ONE_WAY, Failed(TOO_MANY, text)))
            )

    # ------------------------------------------------------------ greeting and refusal

    def _on_hello(self, hello: Hello) -> None:
        identity = self._server.identity
        spoken = sorted(set(hello.versions) & set(PROTOCOL_VERSIONS))
        if not spoken:
            ours = ", ".join(map(str, PROTOCOL_VERSIONS))
            theirs = ", ".join(map(str, hello.versions[:9])) or "none"
            self._refuse(
                "version", f"this server speaks protocol version {ours}, the client {theirs}"
            )
            return
        if hello.cluster not in ("", identity.cluster):
            self._refuse(
                "cluster",
                f"this is server {identity.server!r} of cluster {identity.cluster!r}, "
                f"not of {hello.cluster!r}",
            )
            return
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

    def _check_greeted(self) -> None:
        if not self._greeted and self._transport is not None and not self._over:
            self._refuse("greeting", "no greeting came in time")

    def _refuse(self, code: str, text: str) -> None:
        self._server.refused += 1
        self._complain("refused", code, text)
        if self._transport is not None:
            self._say_goodbye(self._transport, codec.encode(Refusal(code, text)))

    def _say_goodbye(self, transport: asyncio.Transport, last_word: bytes) -> None:
        """Send a last word, and take in and drop what still comes until the client goes too.

        To close while there is something unread resets the connection, and the client would never
        see why.
        """
        self._flush()
        self._over = True
        self._drop()
        server = self._server
        transport.write(last_word)
        if len(server.leaving) >= MAX_LEAVING:
            transport.close()
            return
        server.leaving[self] = None
        if transport.can_write_eof():
            transport.write_eof()
        if self._paused:
            self._paused = False
            transport.resume_reading()
        self._loop.call_later(LINGER_S, self._abort)

    def _drop(self) -> None:
        """Nothing more is taken in, and nothing is held that was not."""
        self._bodies.clear()
        self._bodies_bytes = 0
        self._decoder = FrameDecoder(0)
        self._server.connections.pop(self, None)
        self._server.inflow.holds(self, 0)
        self._node.forget(self)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _malformed(self, text: str) -> None:
        self._server.malformed += 1
        self._complain("malformed", BAD_REQUEST, text)
        if self._transport is None:
            return
        if self._greeted:
            problem = ToClient(ONE_WAY, Failed(BAD_REQUEST, text))
            self._say_goodbye(self._transport, codec.encode(problem))
        else:
            self._refuse("malformed", text)

    def _complain(self, event: str, code: str, text: str) -> None:
        peer = self._transport.get_extra_info("peername") if self._transport else None
        said = {"peer": str(peer), "client": self.client, "reason": text}
        self._server.complaints.tell(event, code, said)
