"""The client's end of a connection to one server: connects, greets, reconnects, dispatches.

A link is up or down.  `post` sends if it is up and drops if it is not: whoever posted re-sends
when the link comes up again, since every message is safe to handle twice.  What is posted in one
turn of the event loop leaves together, in one write if it is small.

Nothing is for good: a server that refused, or that is another one than was expected, is asked again
now and then, for it may have been upgraded, or moved.  A server that takes in nothing any more is
disconnected before this process keeps much for it (`wire.progress`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from typing import Protocol

from wormspace.errors import Refused
from wormspace.runtime.endpoints import Endpoint
from wormspace.runtime.retrying import Backoff
from wormspace.runtime.tasks import Tasks
from wormspace.wire import codec
from wormspace.wire.connection import FramedConnection
from wormspace.wire.dial import CONNECT_S, dial
from wormspace.wire.frames import MAX_FRAME_BYTES
from wormspace.wire.membership import Membership, Movable
from wormspace.wire.messages import (
    ONE_WAY,
    PROTOCOL_VERSIONS,
    ClientMessage,
    Hello,
    Refusal,
    ServerMessage,
    ToServer,
    Welcome,
)

log = logging.getLogger("wormspace.link")

CONNECT_PAUSE_S = (0.02, 0.25)

REFUSED_RETRY_S = 2.0
"""How long until a server that refused is asked again."""

STEADY = ("version", "cluster", "malformed")
"""Refusals that only an operator can end: whoever waits is told at once."""

QUIET_S = 0.1
"""A server that was asked something, and has said nothing for so long, is asked last."""


class Outgoing:
    """A request on its way to one or several servers; encoded at most once."""

    __slots__ = ("_frame", "id", "message")

    def __init__(self, request_id: int, message: ClientMessage) -> None:
        self.id = request_id
        self.message = message
        self._frame: bytes | None = None

    @property
    def frame(self) -> bytes:
        """The bytes of the request, header included."""
        if self._frame is None:
            self._frame = codec.encode(ToServer(self.id, self.message))
        return self._frame


class Receiver(Protocol):
    """What a link tells whoever owns it; `server` is the number given to the link."""

    def on_up(self, server: int) -> None:
        """The server greeted; nothing of what was posted before is still under way."""

    def on_down(self, server: int) -> None:
        """The connection is gone; answers under way are lost."""

    def on_message(self, server: int, request_id: int, message: ServerMessage) -> None:
        """An answer, or a pushed event."""


class Link(Protocol):
    """A way to one server, over the network or in this process."""

    @property
    def name(self) -> str:
        """Where it leads, for people."""

    @property
    def up(self) -> bool:
        """Whether a post has a chance to arrive."""

    @property
    def trouble(self) -> str:
        """Why it is not up, for people; empty when it is."""

    @property
    def quiet(self) -> bool:
        """Whether it was asked something a while ago, and has said nothing since."""

    @property
    def refused(self) -> Refused | None:
        """Set while the server does not want this client."""

    @property
    def max_value(self) -> int:
        """The largest value the server accepts, in bytes."""

    def start(self, receiver: Receiver, server: int) -> None:
        """Begin to connect; events go to `receiver`."""

    def post(self, outgoing: Outgoing) -> None:
        """Send it in this turn of the loop, or drop it if the link is down."""

    async def close(self) -> None:
        """Close for good."""


class TcpLink(FramedConnection):
    """A link over TCP (or whatever the running loop calls a connection)."""

    def __init__(
        self,
        host: str,
        port: int,
        membership: Membership,
        *,
        cluster: str,
        client: str,
        rng: random.Random,
    ) -> None:
        super().__init__()
        self._host, self._port = host, port
        self._hello = Hello(list(PROTOCOL_VERSIONS), cluster, client)
        self._membership = membership
        self._rng = rng
        self._receiver: Receiver | None = None
        self._server = -1
        self._welcome: Welcome | None = None
        self._greeted = False
        self.refused: Refused | None = None
        self._trouble = "not connected yet"
        self._asked_at: float | None = None
        self._lost: asyncio.Event = asyncio.Event()
        self._runner: Tasks | None = None

    @property
    def name(self) -> str:
        return str(Endpoint(self._host, self._port))

    @property
    def up(self) -> bool:
        return self._welcome is not None

    @property
    def trouble(self) -> str:
        return "" if self.up else self._trouble

    @property
    def quiet(self) -> bool:
        return self._asked_at is not None and self._loop.time() - self._asked_at > QUIET_S

    @property
    def max_value(self) -> int:
        return self._welcome.max_value if self._welcome else MAX_FRAME_BYTES

    def start(self, receiver: Receiver, server: int) -> None:
        self._receiver, self._server = receiver, server
        self._membership.links[server] = self
        self._runner = Tasks(f"link {self.name}")
        self._runner.spawn(self._run())

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.close()
        self.hang_up()

    def post(self, outgoing: Outgoing) -> None:
        if self._welcome is None:
            return
        if self._asked_at is None and outgoing.id != ONE_WAY:
            self._asked_at = self._loop.time()
        self.send(outgoing.frame)

    def on_stuck(self) -> None:
        self._trouble = "it takes in nothing"

    async def _run(self) -> None:
        """Connect, wait until it is lost, and again, with a growing random pause."""
        backoff = Backoff(self._rng, CONNECT_PAUSE_S, least=0.5)
        while True:
            self._lost.clear()
            try:
                await dial(lambda: self, self._host, self._port)
            except OSError as e:
                self._trouble = _why(e)
            else:
                await self._lost.wait()
                if self._greeted:
                    backoff.next_s = CONNECT_PAUSE_S[0]
                elif self.refused:
                    backoff.next_s = REFUSED_RETRY_S
            await backoff.pause()

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._asked_at = None
        self._greeted = False
        self._trouble = "no greeting yet"
        self.send(codec.encode(self._hello))
        self._flush()
        self._loop.call_later(CONNECT_S, self._check_greeted, transport)

    def _check_greeted(self, transport: asyncio.BaseTransport) -> None:
        if self._transport is transport and self._welcome is None:
            self._trouble = "the server did not greet in time"
            self.abort()

    def on_frames(self, bodies: list[bytes]) -> None:
        self._asked_at = None
        receiver = self._receiver
        if receiver is None or self._transport is None:
            return
        for body in bodies:
            if self._welcome is None:
                if not self._on_greeting(body):
                    return
            else:
                reply = codec.decode_reply(body)
                receiver.on_message(self._server, reply.id, reply.message)

    def on_malformed(self, problem: str) -> None:
        log.warning("server %s sent what is no message: %s", self.name, problem)
        self._trouble = f"sent what is no message: {problem}"
        self.abort()

    def _on_greeting(self, body: bytes) -> bool:
        greeting = codec.decode_greeting(body)
        if isinstance(greeting, Refusal):
            if greeting.code in STEADY:
                self._refuse(f"server {self.name} refused: {greeting.text}", greeting.code)
            self._trouble = greeting.text
            return False
        problem: str | None = self._membership.check(greeting)
        if not problem:
            problem = self._membership.admit(self._server, greeting.server)
        if problem is not None:
            if problem:
                self._refuse(f"server {self.name} cannot be used: {problem}", "membership")
            return False
        self.refused = None
        self._trouble = ""
        self._welcome = greeting
        self._greeted = True
        if self._receiver:
            self._receiver.on_up(self._server)
        return True

    def _refuse(self, text: str, code: str) -> None:
        self.refused = Refused(text, code)
        self._trouble = text
        self.hang_up()

    def exchange_addresses(self, other: Movable) -> None:
        if not isinstance(other, TcpLink):
            raise TypeError(f"a link over the network has no address for {other!r}")
        here, there = (self._host, self._port), (other._host, other._port)
        self._host, self._port = there
        other._host, other._port = here
        for link in (self, other):
            link._trouble = "its address is another server's now"
            link.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        was_up, self._welcome = self.up, None
        if exc is not None or (was_up and not self._trouble):
            self._trouble = str(exc or "the server closed the connection")
        if was_up and self._receiver:
            self._receiver.on_down(self._server)
        self._lost.set()


def _why(error: OSError) -> str:
    """Why a connection could not be made, for people."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error)
