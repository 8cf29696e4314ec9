"""The calling side: one connection to one address, made when it is needed.

Calls of one turn of the event loop leave as one write, large ones at once; answers come back in
any order.
"""

from __future__ import annotations

import asyncio

from wormspace.errors import ValueTooLarge, WormError
from wormspace.rpc.messages import (
    REFUSED,
    VERSIONS,
    Greeting,
    Request,
    decode_answer,
    encode,
)
from wormspace.runtime.endpoints import Endpoint
from wormspace.runtime.tasks import Tasks
from wormspace.wire.connection import FLUSH_BYTES, FramedConnection
from wormspace.wire.dial import dial
from wormspace.wire.frames import MAX_FRAME_BYTES, frame


class NoAnswer(WormError):
    """The other process did not answer; whether it did what was asked is unknown."""


class Failure(WormError):
    """The other process answered that it could not do it, and why."""


class NoService(Failure):
    """The other process has no service of that name; nothing was done."""


class Caller:
    """A way to call the services at one address.

    Args:
        host: where a `Service` listens.
        port: its port there.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._connection: _Connection | None = None
        self._tasks = Tasks("connecting to a service")
        self._connecting: asyncio.Task[_Connection] | None = None
        self._closed = False

    async def call(self, service: str, body: bytes, timeout: float) -> bytes:
        """Ask `service` and wait for its answer, at most `timeout` seconds.

        Raises:
            NoAnswer: none came: no connection, a lost one, or time ran out.
            Failure: the service raised an error; its text is the message.
            ValueTooLarge: `body` is too large for one message; nothing was sent.
        """
        if len(body) > MAX_FRAME_BYTES // 2:
            raise ValueTooLarge(
                f"a request of {len(body)} bytes to {service!r}; one message holds "
                f"{MAX_FRAME_BYTES // 2}"
            )
        try:
            async with asyncio.timeout(timeout):
                connection = self._connection
                if connection is None or connection.lost:
                    connection = await self._connect()
                return await connection.ask(service, body)
        except TimeoutError as e:
            raise NoAnswer(f"{self}: no answer within {timeout:g} s") from e
        except OSError as e:
            raise NoAnswer(f"{self}: {e}") from e

    async def close(self) -> None:
        """Disconnect; calls under way end with `NoAnswer`."""
        self._closed = True
        if self._connecting:
            self._connecting.cancel()
        if self._connection:
            self._connection.hang_up()
            self._connection.end("this caller was closed")

    def __str__(self) -> str:
        return str(Endpoint(*self._address))

    async def _connect(self) -> _Connection:
        if self._closed:
            raise NoAnswer(f"{self}: this caller is closed")
        connecting = self._connecting
        if connecting is None:
            connecting = self._connecting = self._tasks.spawn(self._dial(), _look_at)
        await asyncio.wait([connecting])
        if connecting.cancelled():
            raise NoAnswer(f"{self}: this caller was closed")
        return connecting.result()

    async def _dial(self) -> _Connection:
        try:
            _, self._connection = await dial(_Connection, *self._address)
            return self._connection
        finally:
            self._connecting = None


def _look_at(connecting: asyncio.Task[_Connection]) -> None:
    """Those who wait are told; a failure that comes when nobody waits any more is no news."""
    if not connecting.cancelled():
        connecting.exception()


class _Connection(FramedConnection):
    def __init__(self) -> None:
        super().__init__()
        self.lost = False
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._last = REFUSED
        self._reason = ""

    async def ask(self, service: str, body: bytes) -> bytes:
        if self.lost:
            raise NoAnswer(self._reason)
        self._last += 1
        number = self._last
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[number] = future
        self.send(frame(encode(Request(number, service, body))))
        try:
            return await future
        finally:
            self._waiting.pop(number, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._transport is not None:  # uvloop keeps less than this until the turn is over
            self._transport.set_write_buffer_limits(high=FLUSH_BYTES)
        self.send(frame(encode(Greeting(list(VERSIONS)))))
        self._flush()

    def on_frames(self, bodies: list[bytes]) -> None:
        for body in bodies:
            answer = decode_answer(body)
            if answer.id == REFUSED:
                self._reason = f"refused: {answer.body.decode(errors='replace')}"
            future = self._waiting.get(answer.id)
            if future is None or future.done():
                continue
            if answer.failed:
                kind = NoService if answer.absent else Failure
                future.set_exception(kind(answer.body.decode(errors="replace")))
            else:
                future.set_result(answer.body)

    def on_malformed(self, problem: str) -> None:
        self._reason = f"what came is no answer: {problem}"
        self.abort()

    def end(self, why: str) -> None:
        """No answer comes any more; the first reason stands."""
        self.lost = True
        self._reason = self._reason or why
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NoAnswer(self._reason))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.end(f"the connection was lost: {exc or 'closed'}")
