"""The answering side: a listening socket, and handlers by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias, cast

import msgspec

from wormspace.errors import WormError
from wormspace.rpc.messages import Answer, Request, decode_request, encode
from wormspace.wire.frames import FrameDecoder, FrameTooLarge, frame

log = logging.getLogger("wormspace.rpc")

Handler: TypeAlias = Callable[[bytes], Awaitable[bytes]]


class Service:
    """Answers requests at one address.

    Args:
        handlers: by service name.  A `WormError` that one raises is the caller's `Failure`.
    """

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers
        self._listener: asyncio.Server | None = None
        self._connections: dict[_Connection, None] = {}

    async def start(self, host: str, port: int) -> int:
        """Begin to listen; returns the port, which the system chooses if it was 0."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: _Connection(self._handlers, self._connections), host, port
        )
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and drop all connections, with whatever is under way on them."""
        if self._listener:
            self._listener.close()
        for connection in list(self._connections):
            connection.close()


class _Connection(asyncio.Protocol):
    def __init__(self, handlers: dict[str, Handler], connections: dict[_Connection, None]) -> None:
        self._handlers = handlers
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._connections.pop(self, None)
        for task in list(self._tasks):
            task.cancel()

    def close(self) -> None:
        if self._transport is not None:
            self._flush()
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._decoder.feed(data):
                task = self._loop.create_task(self._serve(decode_request(body)))
                self._tasks[task] = None
                task.add_done_callback(lambda t: self._tasks.pop(t, None))
        except (msgspec.MsgspecError, UnicodeDecodeError, FrameTooLarge) as e:
            log.warning("malformed request: %s", e)
            if self._transport is not None:
                self._transport.abort()

    def pause_writing(self) -> None:
        """A caller that does not read its answers gets no more of its requests taken in."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    async def _serve(self, request: Request) -> None:
        handler = self._handlers.get(request.service)
        try:
            if handler is None:
                raise WormError(f"no service {request.service!r} here")
            answer = Answer(request.id, await handler(request.body))
        except WormError as e:
            answer = Answer(request.id, str(e).encode(), failed=True)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame(encode(answer)))

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))
