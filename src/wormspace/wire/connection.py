"""A connection on which frames travel: what both ends of both protocols have in common.

What is sent in one turn of the event loop leaves as one write, and much of it at once, so that the
other side begins while the rest is prepared.  A peer that died silently is noticed
(`wire.keepalive`), and one that takes in nothing any more is disconnected before much is kept for
it (`wire.progress`).
"""

from __future__ import annotations

import asyncio
from typing import cast

from wormspace.runtime.batching import EndOfTurn
from wormspace.wire.codec import BadMessage
from wormspace.wire.frames import MAX_FRAME_BYTES, FrameDecoder, FrameTooLarge
from wormspace.wire.keepalive import keep_alive
from wormspace.wire.progress import Progress

LINGER_S = 1.0
"""How long a peer may take to hear the last of what it was sent, when the connection is closed."""

FLUSH_BYTES = 8 * 1024
"""So much is sent before the turn of the loop is over, unless a subclass sends more at once."""


class FramedConnection(asyncio.Protocol):
    """One end; a subclass says what the frames mean.

    It may be one connection after the other: each begins anew.

    Args:
        max_frame: the largest body that is taken in, in bytes.
    """

    flush_bytes = FLUSH_BYTES

    def __init__(self, max_frame: int = MAX_FRAME_BYTES) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._max_frame = max_frame
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._end_of_turn = EndOfTurn(self._flush)

    # What a subclass provides.

    def on_frames(self, bodies: list[bytes]) -> None:
        """Frames came in.

        Raises:
            BadMessage: one of them is nothing that can be understood.
        """
        raise NotImplementedError

    def on_malformed(self, problem: str) -> None:
        """What came in is no message, and nothing after it can be: hang up."""
        self.abort()

    def on_stuck(self) -> None:
        """The peer has taken in nothing for too long, and was disconnected."""

    # What it gets.

    def send(self, frame: bytes) -> None:
        """Send when the turn of the loop is over, or at once if it is much."""
        self._out.append(frame)
        self._out_bytes += len(frame)
        if self._out_bytes >= self.flush_bytes:
            self._flush()
        else:
            self._end_of_turn.request()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the peer."""
        waiting = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return waiting + self._out_bytes

    def hang_up(self) -> None:
        """Send what waits for the end of the turn, then close, soon whether it is taken or not."""
        transport = self._transport
        if transport is not None:
            self._flush()
            transport.close()
            if transport.get_write_buffer_size():
                self._loop.call_later(LINGER_S, transport.abort)

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        if not out or self._transport is None or self._transport.is_closing():
            return
        if not self._progress.write(b"".join(out)):
            self.on_stuck()

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        keep_alive(transport)
        self._decoder = FrameDecoder(self._max_frame)
        self._progress = Progress(self._transport, self._loop)
        self._out, self._out_bytes = [], 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self.on_frames(self._decoder.feed(data))
        except (BadMessage, FrameTooLarge) as e:
            self.on_malformed(str(e))
