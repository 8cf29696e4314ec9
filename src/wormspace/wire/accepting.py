"""The accepting side of connections: who is let in, what they may hold here, how they are sent off.

A connection must greet soon, and briefly.  It is read no faster than its requests can be taken in
and its answers sent: it is paused while requests of it wait, while its peer is slow to read, and
while all connections together hold too much (`wire.inflow`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wormspace.wire.codec import BadMessage
from wormspace.wire.connection import LINGER_S, FramedConnection
from wormspace.wire.frames import HEADER_BYTES, MAX_FRAME_BYTES, FrameDecoder, FrameTooLarge
from wormspace.wire.inflow import Inflow

GREETING_BYTES = 4096
"""The longest greeting: two names of 255 characters, and room for credentials."""

MAX_LEAVING = 64
"""So many that were told to go away may take `LINGER_S` to hear it at a time; others are cut off:
each has a descriptor."""


class Guests:
    """The connections that one listener has accepted, and what they have in common.

    Args:
        most: so many are served at a time.
        held_bytes: what all of them together may hold of messages that are not taken in yet.
        stall_s: above that, how long nothing may become less before whoever has the most is
            disconnected.
        greeting_s: how long each may take to greet.

    Attributes:
        served: those that are, in the order in which they came.
        leaving: those that were told to go away, and have not gone yet.
        is_open: whether anybody is let in.
    """

    def __init__(self, most: int, held_bytes: int, stall_s: float, greeting_s: float) -> None:
        self.most = most
        self.greeting_s = greeting_s
        self.served: dict[AcceptedConnection, None] = {}
        self.leaving: dict[AcceptedConnection, None] = {}
        self.inflow = Inflow(held_bytes, stall_s, self.served)
        self.is_open = True
        self._listener: asyncio.Server | None = None

    async def listen(self, make: Callable[[], AcceptedConnection], host: str, port: int) -> int:
        """Begin to listen; returns the port, which the system chooses if it was 0."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(make, host, port)
        return int(self._listener.sockets[0].getsockname()[1])

    def stop_listening(self) -> None:
        """Let nobody in any more, nor those whom the system has accepted in this moment."""
        self.is_open = False
        if self._listener is not None:
            self._listener.close()

    def hang_up(self) -> None:
        """Send everybody what is ready, then close."""
        for connection in list(self.served):
            connection.hang_up()


class AcceptedConnection(FramedConnection):
    """One peer that came to a listener.

    `on_frames` is called without any, too, when more of what waits may be taken in.
    """

    def __init__(self, guests: Guests, max_frame: int = MAX_FRAME_BYTES) -> None:
        super().__init__(max_frame)
        self._guests = guests
        self._greeting = b""
        self._greeted = False
        self._slow = False
        self._paused = False
        self._over = False

    # What a subclass provides.

    def on_greeting(self, body: bytes) -> bool:
        """The first frame; returns whether it is one by which the peer may stay.

        Raises:
            BadMessage: it is no greeting.
        """
        raise NotImplementedError

    def on_over(self) -> None:
        """Nothing of it is of interest any more: let go what is held for it."""
        raise NotImplementedError

    def refuse(self, code: str, text: str) -> None:
        """Send it off, and say why: a word for programs, and a sentence for people."""
        raise NotImplementedError

    def evict(self) -> None:
        """Send it off: it holds the most of what there is no room for."""
        raise NotImplementedError

    @property
    def is_behind(self) -> bool:
        """Whether messages of it wait here: no more is read."""
        raise NotImplementedError

    # What it gets.

    def holds(self, size: int) -> None:
        """So many bytes of its messages are held, beside what is not whole."""
        if self._transport is not None and not self._over:
            self._guests.inflow.holds(self, self._decoder.held + size)

    def read_or_pause(self) -> None:
        """Read, or pause, as is right now."""
        pause = self._slow or self.is_behind or not self._guests.inflow.may_read(self)
        transport = self._transport
        if transport is None or self._over or pause == self._paused or transport.is_closing():
            return
        self._paused = pause
        if pause:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def say_goodbye(self, last_word: bytes) -> None:
        """Send a last word, and take in and drop what still comes until the peer goes too.

        To close while there is something unread resets the connection, and the peer would never
        see why.
        """
        transport = self._transport
        if transport is None or self._over or transport.is_closing():
            return
        self._flush()
        self._drop()
        transport.write(last_word)
        if len(self._guests.leaving) >= MAX_LEAVING:
            transport.close()
            self._loop.call_later(0, self.abort)  # what did not leave in this turn is lost
            return
        self._guests.leaving[self] = None
        if transport.can_write_eof():
            transport.write_eof()
        if self._paused:
            self._paused = False
            transport.resume_reading()
        self._loop.call_later(LINGER_S, self.abort)

    def _drop(self) -> None:
        """Nothing more is taken in or answered, and nothing is held for it."""
        self._over = True
        self._out, self._out_bytes = [], 0
        self._decoder = FrameDecoder(0)
        self._guests.served.pop(self, None)
        self._guests.inflow.holds(self, 0)
        self.on_over()

    def _check_greeted(self) -> None:
        if not self._greeted and self._transport is not None and not self._over:
            self.refuse("greeting", "no greeting came in time")

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._guests.is_open:
            self.abort()
            return
        if len(self._guests.served) >= self._guests.most:
            self.refuse("busy", "the server has as many connections as it allows")
            return
        self._guests.served[self] = None
        self._loop.call_later(self._guests.greeting_s, self._check_greeted)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._guests.leaving.pop(self, None)
        self._drop()

    def data_received(self, data: bytes) -> None:
        if self._over or self._transport is None or self._transport.is_closing():
            return
        if not self._greeted:
            try:
                data = self._take_greeting(data)
            except (BadMessage, FrameTooLarge) as e:
                self.on_malformed(str(e))
                return
        if self._greeted:
            super().data_received(data)

    def _take_greeting(self, data: bytes) -> bytes:
        """Take the greeting off the stream, if it is all there; returns what follows it.

        Raises:
            FrameTooLarge, BadMessage: it is none.
        """
        data = self._greeting = self._greeting + data
        size = int.from_bytes(data[:HEADER_BYTES], "big")
        if len(data) >= HEADER_BYTES and size > GREETING_BYTES:
            raise FrameTooLarge(size, GREETING_BYTES)
        end = HEADER_BYTES + size
        if len(data) < max(end, HEADER_BYTES):
            return b""
        self._greeting = b""
        self._greeted = self.on_greeting(data[HEADER_BYTES:end])
        return data[end:]

    def pause_writing(self) -> None:
        self._slow = True
        self.read_or_pause()

    def resume_writing(self) -> None:
        self._slow = False
        self.on_frames([])
