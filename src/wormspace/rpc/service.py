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
from typing import TypeAlias

from wormspace.errors import WormError
from wormspace.rpc.messages import (
    REFUSED,
    VERSIONS,
    Answer,
    Request,
    decode_greeting,
    decode_request,
    encode,
)
from wormspace.runtime.endpoints import Endpoint
from wormspace.wire.accepting import AcceptedConnection, Guests
from wormspace.wire.frames import MAX_FRAME_BYTES, frame

log = logging.getLogger("wormspace.rpc")

Handler: TypeAlias = Callable[[bytes], Awaitable[bytes]]

AT_ONCE = 4096
"""Requests of one connection that are worked on at a time."""

CONNECTIONS = 4096
"""Callers that one service takes."""

HELD_BYTES = 64 << 20
"""What all callers together may have here: of requests that are not whole, or not answered."""

REQUEST_BYTES = 2048
"""What a request that is worked on takes in memory beside its body."""

STALL_S = 10.0
"""Above that, how long nothing may become less before whoever has the most is disconnected."""

FLUSH_BYTES = 256 << 10
"""Answers to one caller that are sent before the turn of the loop is over."""

GREETING_S = 5.0
"""How long a caller may take to greet."""


class Service:
    """Answers requests at one address.

    Args:
        handlers: by service name.  A `WormError` that one raises is the caller's `Failure`; so is
            any other exception, which is logged as well.
    """

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self.handlers = handlers
        self.guests = Guests(CONNECTIONS, HELD_BYTES, STALL_S, GREETING_S)

    async def start(self, host: str, port: int) -> int:
        """Begin to listen; returns the port, which the system chooses if it was 0.

        Raises:
            WormError: nobody can listen there.
        """
        try:
            return await self.guests.listen(lambda: _Connection(self), host, port)
        except (OSError, ValueError, OverflowError) as e:  # of a name, too
            raise WormError(f"cannot listen on {Endpoint(host, port)}: {e}; choose another") from e

    async def stop(self) -> None:
        """Stop listening and drop all connections, with whatever is under way on them."""
        self.guests.stop_listening()
        self.guests.hang_up()


class _Connection(AcceptedConnection):
    flush_bytes = FLUSH_BYTES

    def __init__(self, service: Service) -> None:
        super().__init__(service.guests)
        self._service = service
        self._unanswered_bytes = 0
        self._waiting: deque[Request] = deque()
        self._tasks: dict[asyncio.Task[None], int] = {}

    @property
    def is_behind(self) -> bool:
        return bool(self._waiting)

    def on_greeting(self, body: bytes) -> bool:
        if not set(decode_greeting(body).versions).isdisjoint(VERSIONS):
            return True
        ours = ", ".join(map(str, VERSIONS))
        text = f"this service speaks version {ours} of the protocol, the caller another"
        self.refuse("version", text)
        return False

    def on_frames(self, bodies: list[bytes]) -> None:
        for body in bodies:
            request = decode_request(body)
            self._waiting.append(request)
            self._unanswered_bytes += _size(request)
        self._work()

    def on_malformed(self, problem: str) -> None:
        log.warning("malformed request: %s", problem)
        self.abort()

    def on_over(self) -> None:
        self._waiting.clear()
        for task in list(self._tasks):
            task.cancel()

    def refuse(self, code: str, text: str) -> None:
        log.warning("refused a caller: %s", text)
        self.say_goodbye(frame(encode(Answer(REFUSED, text.encode(), failed=True))))

    def evict(self) -> None:
        self.refuse("busy", "the service has no room for so much of requests that wait")

    def _work(self) -> None:
        """Begin with as many of the waiting requests as there is room for."""
        while self._waiting and not self._slow and len(self._tasks) < AT_ONCE:
            request = self._waiting.popleft()
            task = self._loop.create_task(self._serve(request))
            self._tasks[task] = _size(request)
            task.add_done_callback(self._on_done)
        self.holds(self._unanswered_bytes)
        self.read_or_pause()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._unanswered_bytes -= self._tasks.pop(task, 0)
        if self._waiting:
            self._work()
        else:
            self.holds(self._unanswered_bytes)

    # ------------------------------------------------------------ answers

    async def _serve(self, request: Request) -> None:
        handler = self._service.handlers.get(request.service)
        if handler is None:
            why = f"no service {request.service!r} here".encode(errors="replace")
            self.send(frame(encode(Answer(request.id, why, failed=True, absent=True))))
            return
        try:
            body = await handler(request.body)
            if len(body) > MAX_FRAME_BYTES // 2:
                raise WormError(f"the answer has {len(body)} bytes, too large for one message")
            answer = Answer(request.id, body)
        except WormError as e:
            answer = Answer(request.id, str(e).encode(errors="replace"), failed=True)
        except asyncio.CancelledError:
            if self._over:
                raise
            why = b"the service gave up what it waited for"
            answer = Answer(request.id, why, failed=True)
        except Exception as e:  # who asked must not wait for an answer that never comes
            log.exception("service %s failed", request.service)
            text = f"the service failed: {type(e).__name__}: {e}"
            answer = Answer(request.id, text.encode(errors="replace"), failed=True)
        if not self._over:
            self.send(frame(encode(answer)))


def _size(request: Request) -> int:
    """What a request takes in memory, about."""
    return len(request.body) + len(request.service) + REQUEST_BYTES
