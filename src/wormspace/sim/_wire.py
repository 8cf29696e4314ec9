"""One direction of a simulated stream: what is under way, and the link it travels on.

A wire is a queue of (arrival time, bytes or signal) with one timer, for its head. What is written
at one instant travels together. A blocked link stalls the wire at the moment of arrival; when the
link heals the wire goes on, or the sender gives up first. With losses, a frame may be dropped, sent
twice, or made to travel apart, so that later ones overtake it.

Signals travel like data: the connection is established, the end of the stream, a reset.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import errno
from collections import deque
from random import Random
from typing import Protocol

from wormspace.sim._loop import SimLoop
from wormspace.sim.latency import Latency
from wormspace.sim.network_options import Loss
from wormspace.sim.trace import Plain

Address = tuple[str, int]

ROOT = contextvars.Context()
"""The context of the network's own handles: they belong to no process."""


class Signal(enum.Enum):
    """What travels on a wire besides data."""

    ESTABLISHED = "established"
    END = "end of stream"
    RESET = "reset"


class Link:
    """The way from one host to another, shared by all their connections."""

    def __init__(self, source: str, target: str, latency: Latency, random: Random) -> None:
        self.source = source
        self.target = target
        self.latency = latency
        self.random = random
        self.factor = 1.0
        self.blocked = False
        self.stalled: dict[Wire, None] = {}

    def delay(self) -> float:
        """How long the next message travels, in seconds."""
        return self.latency(self.random) * self.factor


class End(Protocol):
    """One end of a connection, as the wires see it."""

    local: Address
    remote: Address
    lost: bool

    @property
    def peer(self) -> End | None: ...
    def receive(self, data: bytes) -> None: ...
    def receive_signal(self, signal: Signal) -> None: ...
    def credit(self, size: int) -> None: ...
    def lose(self, error: Exception | None) -> None: ...


class WireNetwork(Protocol):
    """The network, as a wire sees it."""

    loop: SimLoop
    messages: int

    @property
    def loss(self) -> Loss | None: ...
    def strike(self, loss: Loss, wire: Wire, frame: bytes) -> bool: ...
    def draw_split(self, size: int) -> int: ...
    def draw_stall_timeout(self) -> float: ...
    def note(self, host: str, text: str, *args: Plain) -> None: ...


class Wire:
    """What one end of a connection has sent and the other has not received."""

    def __init__(self, network: WireNetwork, link: Link, end: End) -> None:
        self.link = link
        self._network = network
        self._loop = network.loop
        self._end = end
        self._items: deque[tuple[float, bytes | Signal]] = deque()
        self._horizon = 0.0  # nothing sent from now on may arrive before
        self._sent_at = -1.0
        self._frames = 0
        self._silent = False
        self._arrival: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._stalled = False

    def put(self, data: bytes) -> None:
        """Send bytes: a frame, where the network knows frames."""
        network = self._network
        network.messages += 1
        loss = network.loss
        if loss is not None:
            self._frames += 1
            if self._frames > loss.spared_frames and network.strike(loss, self, data):
                return
        now = self._loop.now
        if now != self._sent_at or not self._items:
            when = now + self.link.delay()
            if when > self._horizon:
                self._horizon = when
            self._sent_at = now
        self._append(data)

    def put_signal(self, signal: Signal) -> None:
        """Send a signal, after all that was sent before."""
        if self._silent:
            return
        self._horizon = max(self._horizon, self._loop.now + self.link.delay())
        self._sent_at = -1.0
        self._append(signal)

    def _append(self, item: bytes | Signal) -> None:
        self._items.append((self._horizon, item))
        if self._arrival is None and not self._stalled:
            self._arrival = self._loop.call_at(self._horizon, self._on_arrival, context=ROOT)

    def put_apart(self, delay_s: float, data: bytes) -> None:
        """Send a frame that arrives `delay_s` later than it should, and that others overtake."""
        when = max(self._horizon, self._loop.now + self.link.delay()) + delay_s
        self._loop.call_at(when, self._on_arrival_apart, data, context=ROOT)

    def lose(self, data: bytes) -> None:
        """Count bytes that never arrive as no longer in flight, soon."""
        self._loop.call_soon(self._end.credit, len(data), context=ROOT)

    def _on_arrival_apart(self, data: bytes) -> None:
        peer = self._end.peer
        if self.link.blocked or peer is None:
            self._end.credit(len(data))
        else:
            peer.receive(data)

    def _on_arrival(self) -> None:
        self._arrival = None
        if self.link.blocked:
            self._become_stalled()
            return
        items = self._items
        now = self._loop.now
        arrived: list[bytes | Signal] = []
        while items and items[0][0] <= now:
            arrived.append(items.popleft()[1])
        if items:
            self._arrival = self._loop.call_at(items[0][0], self._on_arrival, context=ROOT)
        peer = self._end.peer
        if peer is None:
            return
        if len(arrived) == 1:
            self._deliver(peer, arrived[0])
            return
        chunks: list[bytes] = []
        for item in arrived:
            if isinstance(item, bytes):
                chunks.append(item)
            else:
                if chunks:
                    self._deliver(peer, b"".join(chunks))
                    chunks = []
                self._deliver(peer, item)
        if chunks:
            self._deliver(peer, b"".join(chunks))

    def _deliver(self, peer: End, item: bytes | Signal) -> None:
        if not isinstance(item, bytes):
            peer.receive_signal(item)
            return
        cut = self._network.draw_split(len(item))
        if cut:
            peer.receive(item[:cut])
            peer.receive(item[cut:])
        else:
            peer.receive(item)

    def _become_stalled(self) -> None:
        self._stalled = True
        self.link.stalled[self] = None
        if not self._end.lost:
            self._stall = self._loop.call_later(
                self._network.draw_stall_timeout(), self._on_stall_timeout, context=ROOT
            )

    def unstall(self, delay_s: float) -> None:
        """The link healed: what is stalled is sent again and arrives `delay_s` from now."""
        self._stalled = False
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._horizon = max(self._horizon, self._loop.now + delay_s)
        if self._items:
            self._arrival = self._loop.call_at(self._horizon, self._on_arrival, context=ROOT)

    def _on_stall_timeout(self) -> None:
        # This end gives up. Its peer learns of it when the link heals: a reset stays on the wire.
        self._stall = None
        self._items.clear()
        self._items.append((self._loop.now, Signal.RESET))
        self._network.note(self._end.local[0], "gave up waiting for %s:%d", *self._end.remote)
        self._end.lose(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))

    def clear(self) -> None:
        """Lose what is under way."""
        self._items.clear()
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._stalled = False
        self.link.stalled.pop(self, None)

    def fall_silent(self, silence_s: float) -> None:
        """Lose what is under way and send nothing more, until a reset in `silence_s`."""
        self.clear()
        self._silent = True
        self._loop.call_later(silence_s, self._break_silence, context=ROOT)

    def _break_silence(self) -> None:
        self._silent = False
        self.put_signal(Signal.RESET)
