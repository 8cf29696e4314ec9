"""The answering side: a listening socket, and handlers by name.

Of each connection a bounded number of requests is worked on at a time; the others wait, and nothing
more is read while some do, or while the caller does not read its answers.  What all of them hold,
half requests and those that are worked on, is limited as well (`wire.inflow`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias, cast

from wormspace.errors import WormError
from wormspace.malformed import MALFORMED
from wormspace.rpc.messages import (
    REFUSED,
    VERSIONS,
    Answer,
    Request,
    decode_greeting,
    decode_request,
    encode,
)
from wormspace.wire.frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    FrameDecoder,
    FrameTooLarge,
    frame,
)
from wormspace.wire.inflow import Inflow
from wormspace.wire.keepalive import keep_alive

log = logging.getLogger("wormspace.rpc")

Handler: TypeAlias = Callable[[bytes], Awaitable[bytes]]

AT_ONCE = 4096
"""Requests of one connection that are worked on at a time."""

CONNECTIONS = 4096
"""Callers that one service takes."""

GREETING_BYTES = 4096
"""The longest greeting."""

HELD_BYTES = 64 << 20
"""What all callers together may have here: of requests that are not whole, or not answered."""

REQUEST_BYTES = 2048
"""What a request that is worked on takes in memory beside its body."""

STALL_S = 10.0
"""Above that, how long nothing may become less before whoever has the most is disconnected."""

LINGER_S = 1.0
"""How long a caller that was told to go away may take to hear it."""

GREETING_S = 5.0
"""How long a caller may take to greet."""


class _NoHandler(WormError):
    """Nobody here has that name."""


class Service:
    """Answers requests at one address.

    Args:
        handlers: by service name.  A `WormError` that one raises is the caller's `Failure`; so is
            any other exception, which is logged as well.
    """

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self.handlers = handlers
        self.connections: dict[_Connection, None] = {}
        self.inflow = Inflow(HELD_BYTES, STALL_S, self.connections)
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Begin to listen; returns the port, which the system chooses if it was 0."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Connection(self), host, port)
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and drop all connections, with whatever is under way on them."""
        if self._listener:
            self._listener.close()
        for connection in list(self.connections):
            connection.close()


class _Connection(asyncio.Protocol):
    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self._greeting = b""
        self._unanswered_bytes = 0
        self._waiting: deque[Request] = deque()
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._slow = False
        self._paused = False
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        keep_alive(transport)
        if len(self._service.connections) >= CONNECTIONS:
            self._refuse(f"this service has {CONNECTIONS} callers already")
            return
        self._service.connections[self] = None
        self._loop.call_later(GREETING_S, self._check_greeted)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._service.connections.pop(self, None)
        self._service.inflow.holds(self, 0)
        self._waiting.clear()
        for task in list(self._tasks):
            task.cancel()

    def close(self) -> None:
        if self._transport is not None:
            self._flush()
        if self._transport is not None:
            self._transport.close()

    # ------------------------------------------------------------ what comes in

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        try:
            if not self._greeted:
                data = self._take_greeting(data)
            for body in self._decoder.feed(data):
                request = decode_request(body)
                self._waiting.append(request)
                self._unanswered_bytes += _size(request)
        except (*MALFORMED, FrameTooLarge) as e:
            log.warning("malformed request: %.200s", e)
            self._transport.abort()
            return
        self._work()

    def _take_greeting(self, data: bytes) -> bytes:
        """Take the greeting off the stream, if it is all there; returns what follows it.

        Raises:
            FrameTooLarge: it announces more than any greeting has.
        """
        data = self._greeting = self._greeting + data
        size = int.from_bytes(data[:HEADER_BYTES], "big")
        if len(data) >= HEADER_BYTES and size > GREETING_BYTES:
            raise FrameTooLarge(size, GREETING_BYTES)
        end = HEADER_BYTES + size
        if len(data) < max(end, HEADER_BYTES):
            return b""
        self._greeting = b""
        greeting = decode_greeting(data[HEADER_BYTES:end])
        return data[end:] if self._on_greeting(greeting.versions) else b""

    def _on_greeting(self, versions: list[int]) -> bool:
        self._greeted = not set(versions).isdisjoint(VERSIONS)
        if not self._greeted:
            ours = ", ".join(map(str, VERSIONS))
            self._refuse(f"this service speaks version {ours} of the protocol, the caller another")
        return self._greeted

    def _check_greeted(self) -> None:
        if not self._greeted:
            self._abort()

    def _refuse(self, text: str) -> None:
        log.warning("refused a caller: %s", text)
        self._answer(Answer(REFUSED, text.encode(), failed=True))
        self.close()
        self._loop.call_later(LINGER_S, self._abort)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _work(self) -> None:
        """Begin with as many of the waiting requests as there is room for."""
        while self._waiting and not self._slow and len(self._tasks) < AT_ONCE:
            request = self._waiting.popleft()
            task = self._loop.create_task(self._serve(request))
            self._tasks[task] = _size(request)
            task.add_done_callback(self._on_done)
        self._hold()
        self.read_or_pause()

    def _hold(self) -> None:
        if self._transport is not None:
            self._service.inflow.holds(self, self._decoder.held + self._unanswered_bytes)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._unanswered_bytes -= self._tasks.pop(task, 0)
        if self._waiting:
            self._work()
        else:
            self._hold()

    def evict(self) -> None:
        """Disconnect it: it has the most of what the service has no room for."""
        self._refuse("the service has no room for so much of requests that wait")

    def pause_writing(self) -> None:
        self._slow = True
        self.read_or_pause()

    def resume_writing(self) -> None:
        self._slow = False
        self._work()

    def read_or_pause(self) -> None:
        """Read, or pause, as is right now."""
        may_read = self._service.inflow.may_read(self)
        pause = self._slow or bool(self._waiting) or not may_read
        if self._transport is None or pause == self._paused or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # ------------------------------------------------------------ answers

    async def _serve(self, request: Request) -> None:
        handler = self._service.handlers.get(request.service)
        try:
            if handler is None:
                raise _NoHandler(f"no service {request.service!r} here")
            body = await handler(request.body)
            if len(body) > MAX_FRAME_BYTES // 2:
                raise WormError(f"the answer has {len(body)} bytes, too large for one message")
            answer = Answer(request.id, body)
        except WormError as e:
            why, absent = str(e).encode(errors="replace"), isinstance(e, _NoHandler)
            answer = Answer(request.id, why, failed=True, absent=absent)
        except Exception as e:  # who asked must not wait for an answer that never comes
            log.exception("service %s failed", request.service)
            text = f"the service failed: {type(e).__name__}: {e}"
            answer = Answer(request.id, text.encode(errors="replace"), failed=True)
        self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame(encode(answer)))

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))


def _size(request: Request) -> int:
    """What a request takes in memory, about."""
    return len(request.body) + len(request.service) + REQUEST_BYTES
