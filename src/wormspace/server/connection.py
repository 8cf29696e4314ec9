"""One client's connection: greeting, frames, back-pressure, the last word.

A connection is read no faster than its requests can be taken in and its answers sent: it is paused
while the store's backlog is above its limit, while the client is slow to read, and while all of
them together hold too much (`wire.accepting`).  What breaks a rule is answered for itself; what
cannot be understood closes the connection after a word of explanation.  Neither touches anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol

from wormspace.knobs import KNOBS
from wormspace.paxos.messages import Write
from wormspace.server.complaints import Complaints
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.node import Node
from wormspace.wire import codec
from wormspace.wire.accepting import AcceptedConnection, Guests
from wormspace.wire.messages import (
    BAD_REQUEST,
    ONE_WAY,
    PROTOCOL_VERSIONS,
    TOO_MANY,
    Failed,
    Refusal,
    ServerMessage,
    ToClient,
    Welcome,
)
from wormspace.wire.progress import UNSENT_BYTES

log = logging.getLogger("wormspace.server")

REQUEST_BYTES = 512
"""What a request takes in memory beside the bytes of its message."""

REGISTER_BYTES = 96
"""And each register of a write."""


class Host(Protocol):
    """The server, as a connection sees it: what all of them share."""

    identity: ServerIdentity
    limits: Limits
    node: Node
    guests: Guests
    complaints: Complaints
    refused: int
    malformed: int


class Connection(AcceptedConnection):
    """One client: a `listeners.ReplyTo`."""

    def __init__(self, server: Host) -> None:
        super().__init__(server.guests, server.limits.max_frame)
        self.flush_bytes = KNOBS.server_flush_bytes
        self._server = server
        self._node = server.node
        self._bodies: deque[bytes] = deque()
        self._bodies_bytes = 0
        self._waiting = False
        self._pausing = False
        self.client = ""

    # ------------------------------------------------------------ listeners.ReplyTo

    def answer(self, request_id: int, message: ServerMessage) -> None:
        if request_id == ONE_WAY or self._transport is None or self._over:
            return
        try:
            frame = codec.encode(ToClient(request_id, message))
        except Exception:
            # Others wait for their answers behind this one.
            log.exception("an answer could not be encoded")
            self.abort()
            return
        self.send(frame)

    def congested(self) -> bool:
        return self._transport is None or self.unsent > self._server.limits.max_unsent

    # ------------------------------------------------------------ accepting.AcceptedConnection

    @property
    def is_behind(self) -> bool:
        return bool(self._bodies)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        limit = self._server.limits.max_unsent
        self._progress.limit = max(UNSENT_BYTES, 4 * limit)
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=limit // 4)

    def on_frames(self, bodies: list[bytes]) -> None:
        self._bodies.extend(bodies)
        self._bodies_bytes += sum(map(len, bodies))
        self._pump()

    def on_over(self) -> None:
        self._bodies.clear()
        self._bodies_bytes = 0
        self._node.forget(self)

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
        self.holds(self._bodies_bytes)
        self.read_or_pause()

    def _hand_in(self, body: bytes) -> bool:
        """Decode a request and hand it to the node; false if the connection is over."""
        try:
            request = codec.decode_request(body)
        except codec.BadRequest as e:
            self._node.counters.bad_requests += 1
            self.answer(e.id, Failed(BAD_REQUEST, str(e)))
        except codec.BadMessage as e:
            self.on_malformed(str(e))
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

    def evict(self) -> None:
        text = "the server has no room for so much of messages that are not whole or not answered"
        self._complain("evicted", TOO_MANY, text)
        self.say_goodbye(codec.encode(ToClient(ONE_WAY, Failed(TOO_MANY, text))))

    # ------------------------------------------------------------ greeting and refusal

    def on_greeting(self, body: bytes) -> bool:
        hello = codec.decode_hello(body)
        identity = self._server.identity
        spoken = sorted(set(hello.versions) & set(PROTOCOL_VERSIONS))
        if not spoken:
            ours = ", ".join(map(str, PROTOCOL_VERSIONS))
            theirs = ", ".join(map(str, hello.versions[:9])) or "none"
            self.refuse(
                "version", f"this server speaks protocol version {ours}, the client {theirs}"
            )
            return False
        if hello.cluster not in ("", identity.cluster):
            self.refuse(
                "cluster",
                f"this is server {identity.server!r} of cluster {identity.cluster!r}, "
                f"not of {hello.cluster!r}",
            )
            return False
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
        self.send(codec.encode(welcome))
        self._flush()
        return True

    def refuse(self, code: str, text: str) -> None:
        self._server.refused += 1
        self._complain("refused", code, text)
        self.say_goodbye(codec.encode(Refusal(code, text)))

    def on_malformed(self, problem: str) -> None:
        self._server.malformed += 1
        self._complain("malformed", BAD_REQUEST, problem)
        if self._greeted:
            self.say_goodbye(codec.encode(ToClient(ONE_WAY, Failed(BAD_REQUEST, problem))))
        else:
            self.refuse("malformed", problem)

    def _complain(self, event: str, code: str, text: str) -> None:
        peer = self._transport.get_extra_info("peername") if self._transport else None
        said = {"peer": str(peer), "client": self.client, "reason": text}
        self._server.complaints.tell(event, code, said)
