"""One end of a simulated stream, with the interface of asyncio's transports.

What was sent and not yet consumed by the peer's protocol is in flight; when a window's worth is,
further writes wait in the buffer, whose water marks call pause_writing and resume_writing.
Callbacks of the protocol run in the context its process connected or listened in, and so belong to
it; an end whose process does not run keeps what arrives.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import zlib
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from wormspace.sim._handles import Owner
from wormspace.sim._wire import Address, Link, Signal, Wire, WireNetwork
from wormspace.sim.network_options import NetworkOptions

# A length beyond this is taken for a stream that is not framed, and its bytes pass as they are.
_MAX_FRAME_BYTES = 1 << 30


class TransportNetwork(WireNetwork, Protocol):
    """The network, as one end of a connection sees it."""

    random: Random
    options: NetworkOptions
    framed: bool
    tap: Callable[[SimTransport, bytes, bool], None] | None

    def on_connection_over(self, end: SimTransport, peer: SimTransport) -> None: ...


class SimTransport(asyncio.Transport):
    """One end of a connection, with the interface of asyncio's stream transports."""

    def __init__(
        self,
        network: TransportNetwork,
        owner: Owner,
        context: contextvars.Context,
        link: Link,
        local: Address,
        remote: Address,
    ) -> None:
        super().__init__({"sockname": local, "peername": remote})
        self._network = network
        self._loop = network.loop
        self._owner = owner
        self._context = context
        # A context cannot be entered twice: draining is a handle of its own that enters `context`.
        self._drain_context = context.copy()
        self.wire = Wire(network, link, self)
        self.local = local
        self.remote = remote
        self.peer: SimTransport | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.lost = False
        self._protocol: asyncio.BaseProtocol | None = None
        self._error: Exception | None = None
        self._closing = False
        # Sending: the user-space buffer, then the wire.
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._high = 64 * 1024
        self._low = 16 * 1024
        self._writing_paused = False
        self._end_sent = False
        self._in_flight = 0
        self._partial = b""
        # Receiving: what arrived and the protocol has not been given.
        self._received: deque[bytes | Signal] = deque()
        self._reading_paused = False
        self._draining = False
        owner.resources[self] = None

    def start(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to its protocol; what arrived or failed meanwhile follows."""
        self._protocol = protocol
        protocol.connection_made(self)
        if self.lost:
            self._loop.call_soon(self._call_lost, context=self._context)
        else:
            self._drain_soon()

    # -- asyncio's interface: writing --------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send the bytes, in order, after what was written before."""
        if self._end_sent and not self._closing:
            raise RuntimeError("cannot write after write_eof")
        if self._closing or not data:
            return
        data = bytes(data)
        if self._network.tap is not None:
            self._network.tap(self, data, True)
        if self._network.framed:
            for frame in self._cut_frames(data):
                self._send(frame)
        else:
            self._send(data)

    def can_write_eof(self) -> bool:
        """Half-closing is supported."""
        return True

    def write_eof(self) -> None:
        """End this direction after what was written."""
        if self._closing or self._end_sent:
            return
        self._end_sent = True
        self._flush_partial()
        if not self._buffer:
            self.wire.put_signal(Signal.END)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio's: the water marks, in bytes."""
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high water mark, in bytes."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Bytes written that the network has not taken yet."""
        return self._buffered

    # -- asyncio's interface: the rest -------------------------------------------------------------

    def pause_reading(self) -> None:
        """Give the protocol nothing until `resume_reading`; the sender will feel it."""
        self._reading_paused = True

    def resume_reading(self) -> None:
        """Give the protocol what arrived meanwhile, and what comes."""
        self._reading_paused = False
        self._drain_soon()

    def is_reading(self) -> bool:
        """Whether the protocol is given what arrives."""
        return not (self._reading_paused or self._closing)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol; RuntimeError before the connection is made."""
        if self._protocol is None:
            raise RuntimeError("the connection has not been made")
        return self._protocol

    def is_closing(self) -> bool:
        """Whether `close` or `abort` was called, or the connection was lost."""
        return self._closing

    def close(self) -> None:
        """Send what is buffered, then the end; the protocol is given nothing more."""
        if self._closing:
            return
        self._closing = True
        if any(isinstance(item, bytes) for item in self._received):
            # As a kernel does: bytes left unread at close are a reset.
            self._reset()
        else:
            self._flush_partial()
            if not self._buffer:
                self._finish()

    def abort(self) -> None:
        """Drop what is buffered and reset the connection."""
        if not self.lost:
            self._reset()

    def _reset(self, error: Exception | None = None) -> None:
        # A reset may overtake what is still in flight.
        if self._network.random.random() < 0.5:
            self.wire.clear()
        self.wire.put_signal(Signal.RESET)
        self.lose(error)

    def _finish(self) -> None:
        if not self._end_sent:
            self._end_sent = True
            self.wire.put_signal(Signal.END)
        self.lose(None)

    # -- losing the connection ---------------------------------------------------------------------

    def lose(self, error: Exception | None) -> None:
        """This end is gone: tell the protocol, soon."""
        if self.lost:
            return
        self._forget()
        self._error = error
        if self._protocol is not None:
            self._loop.call_soon(self._call_lost, context=self._context)
        elif self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(error or ConnectionAbortedError())

    def _forget(self) -> None:
        self.lost = self._closing = True
        self._buffer.clear()
        self._buffered = 0
        self._received.clear()
        self._owner.resources.pop(self, None)
        if self.peer is not None and self.peer.lost:
            self._network.on_connection_over(self, self.peer)

    def _call_lost(self) -> None:
        if self._protocol is not None:
            self._protocol.connection_lost(self._error)

    def vanish(self, *, silence_s: float, clean: bool) -> None:
        """The process died: no callback; the peer sees an end, a reset, or silence and then one."""
        self._forget()
        if clean:
            self.wire.put_signal(Signal.END)
        elif silence_s > 0:
            self.wire.fall_silent(silence_s)
        else:
            if self._network.random.random() < 0.5:
                self.wire.clear()
            self.wire.put_signal(Signal.RESET)

    def break_off(self) -> None:
        """The network resets this end; what it had in flight is lost."""
        self.wire.clear()
        self.lose(_reset_by_peer())

    # -- sending -----------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        size = len(data)
        in_flight = self._in_flight
        if self._buffer or (in_flight and in_flight + size > self._network.options.window_bytes):
            self._buffer.append(data)
            self._buffered += size
            if self._buffered > self._high and not self._writing_paused:
                self._writing_paused = True
                if self._protocol is not None:
                    self._protocol.pause_writing()
            return
        self._in_flight = in_flight + size
        self.wire.put(data)

    def credit(self, size: int) -> None:
        """`size` bytes of what is in flight were consumed or lost; more of the buffer may go."""
        # A duplicated frame is consumed twice but was counted once.
        self._in_flight = max(0, self._in_flight - size)
        buffer = self._buffer
        if not buffer:
            return
        window = self._network.options.window_bytes
        while buffer and (not self._in_flight or self._in_flight + len(buffer[0]) <= window):
            data = buffer.popleft()
            self._buffered -= len(data)
            self._in_flight += len(data)
            self.wire.put(data)
        if self._writing_paused and self._buffered <= self._low:
            self._writing_paused = False
            if self._protocol is not None and not self.lost:
                self._loop.call_soon(self._protocol.resume_writing, context=self._context)
        if not buffer:
            if self._closing:
                self._finish()
            elif self._end_sent:
                self.wire.put_signal(Signal.END)

    def _cut_frames(self, data: bytes) -> list[bytes]:
        """The whole frames (4-byte big-endian length, body) at the head of the stream."""
        if self._partial:
            data = self._partial + data
        frames = []
        start, size = 0, len(data)
        while size - start >= 4:
            length = int.from_bytes(data[start : start + 4], "big")
            if length > _MAX_FRAME_BYTES:
                frames.append(data[start:])
                start = size
                break
            end = start + 4 + length
            if end > size:
                break
            frames.append(data[start:end])
            start = end
        self._partial = data[start:]
        return frames

    def _flush_partial(self) -> None:
        if self._partial:
            data, self._partial = self._partial, b""
            self._send(data)

    # -- receiving ---------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes arrived at this end."""
        if self._closing:
            # Bytes for a closed socket are answered with a reset.
            if self.lost and self.peer is not None and not self.peer.lost:
                self.wire.put_signal(Signal.RESET)
            return
        self._network.note(
            self.local[0],
            "received %d bytes %08x from %s:%d",
            len(data),
            zlib.crc32(data),
            *self.remote,
        )
        if (
            self._received
            or self._reading_paused
            or self._protocol is None
            or not self._owner.running
        ):
            self._received.append(data)
            self._drain_soon()
        else:
            self._feed(data)

    def receive_signal(self, signal: Signal) -> None:
        """The connection was established, ended by the peer, or reset."""
        if signal is Signal.ESTABLISHED:
            if self.waiter is not None and not self.waiter.done():
                self.waiter.set_result(None)
        elif self.lost:
            return
        elif signal is Signal.RESET:
            self._network.note(self.local[0], "connection reset by %s:%d", *self.remote)
            self.wire.clear()
            self.lose(_reset_by_peer())
        elif not self._closing:
            self._received.append(signal)
            self._drain_soon()

    def _drain_soon(self) -> None:
        if self._received and not (
            self._draining or self._reading_paused or self._closing or self._protocol is None
        ):
            self._draining = True
            self._loop.call_soon(self._drain, context=self._drain_context)

    def _drain(self) -> None:
        self._draining = False
        received = self._received
        while received and not self._reading_paused and not self._closing:
            item = received.popleft()
            if isinstance(item, bytes):
                self._feed(item)
            elif not self._call("eof_received"):
                self.close()

    def _feed(self, data: bytes) -> None:
        if self._network.tap is not None:
            self._network.tap(self, data, False)
        try:
            self._context.run(self._protocol.data_received, data)  # type: ignore[union-attr]
        except Exception as error:  # noqa: BLE001 (as in asyncio: reported, and fatal to the stream)
            self._fatal(error)
        if self.peer is not None:
            self.peer.credit(len(data))

    def _call(self, name: str) -> Any:
        method: Callable[[], Any] = getattr(self._protocol, name)
        try:
            return self._context.run(method)
        except Exception as error:  # noqa: BLE001 (as in asyncio: reported, and fatal to the stream)
            self._fatal(error)

    def _fatal(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {
                "message": f"protocol failed on the connection {self.local} to {self.remote}",
                "exception": error,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        if not self.lost:
            self._reset(error)


def _reset_by_peer() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
