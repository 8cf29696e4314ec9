"""The simulated network: named hosts, the links between them, and what goes wrong on them.

Streams behave like TCP: reliable and in order until they are reset. A cut (partition) stalls what
arrives while it lasts: a stalled stream goes on after the heal, or its sender gives up first. To
connect takes a round trip; without a listener it is refused, and where nobody answers it times out.
Acknowledgements are not simulated: a one-way cut stalls one direction and leaves the other alone.

With `framed`, the network knows the wire format (a 4-byte big-endian length, then the body) and may
lose, repeat, delay and reorder whole frames of a connection that stays up. Bytes are never forged.

All randomness comes from the generator handed in; each draw happens at a point fixed by the run.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from wormspace.sim._handles import OWNER, Owner
from wormspace.sim._listener import Listener
from wormspace.sim._loop import SimLoop
from wormspace.sim._transport import SimTransport
from wormspace.sim._wire import ROOT, Link, Wire
from wormspace.sim.latency import Latency
from wormspace.sim.network_options import Loss, NetworkOptions
from wormspace.sim.trace import Plain, Trace

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)

_OWN_NAMES = frozenset(("", "localhost", "127.0.0.1", "0.0.0.0", "::", "::1"))
_FIRST_EPHEMERAL_PORT = 49152


@dataclass(frozen=True)
class Cut:
    """A partition: what `sources` send to `targets` (None: to everybody else) does not arrive."""

    sources: frozenset[str]
    targets: frozenset[str] | None
    one_way: bool

    def covers(self, source: str, target: str) -> bool:
        """Whether the way from source to target is cut."""
        return self._covers(source, target) or (not self.one_way and self._covers(target, source))

    def _covers(self, source: str, target: str) -> bool:
        if source not in self.sources:
            return False
        return target not in self.sources if self.targets is None else target in self.targets


class Network:
    """Hosts come into being when they are first named.

    Attributes:
        tap: told all bytes that an end sends (True), or its process is given (False).
    """

    def __init__(
        self, loop: SimLoop, random: Random, trace: Trace, options: NetworkOptions | None = None
    ) -> None:
        self.loop = loop
        self.random = random
        self.options = options or NetworkOptions()
        self.framed = self.options.framed
        self.tap: Callable[[SimTransport, bytes, bool], None] | None = None
        self.messages = 0
        self.dropped = 0
        self.duplicated = 0
        self.delayed = 0
        self._trace = trace
        self._loss: Loss | None = None
        self._links: dict[tuple[str, str], Link] = {}
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._connections: dict[SimTransport, None] = {}
        self._cuts: list[Cut] = []
        self._down: set[str] = set()
        self._slow: dict[str, float] = {}
        self._next_port = _FIRST_EPHEMERAL_PORT
        self.loss = self.options.loss

    # -- faults ------------------------------------------------------------------------------------

    @property
    def loss(self) -> Loss | None:
        """What may befall a frame; may be changed at any time."""
        return self._loss

    @loss.setter
    def loss(self, loss: Loss | None) -> None:
        if loss is not None and not self.framed:
            raise ValueError("losing frames needs NetworkOptions(framed=True)")
        self._loss = loss

    def cut(
        self, sources: Iterable[str], targets: Iterable[str] | None = None, *, one_way: bool = False
    ) -> Cut:
        """Cut `sources` off from `targets` (default: from everybody else) until healed."""
        cut = Cut(frozenset(sources), None if targets is None else frozenset(targets), one_way)
        self._cuts.append(cut)
        self.note(
            "network",
            "cut %s %s %s",
            ",".join(sorted(cut.sources)),
            "->" if one_way else "<->",
            "rest" if cut.targets is None else ",".join(sorted(cut.targets)),
        )
        self._refresh()
        return cut

    def heal(self, cut: Cut | None = None) -> None:
        """End one cut, or all of them."""
        if cut is None:
            self._cuts.clear()
        elif cut in self._cuts:
            self._cuts.remove(cut)
        self.note("network", "heal, %d cuts left", len(self._cuts))
        self._refresh()

    def slow(self, host: str, factor: float) -> None:
        """Make everything to and from the host take `factor` times as long; 1.0 ends it."""
        self._slow[host] = factor
        self.note("network", "%s slower by %g", host, factor)
        self._refresh()

    def reset(self, host: str, other: str | None = None) -> int:
        """Reset the connections of a host (with another); returns how many there were."""
        count = 0
        for end in list(self._connections):
            pair = (end.local[0], end.remote[0])
            if host in pair and (other is None or other in pair):
                count += 1
                end.break_off()
                if end.peer is not None:
                    end.peer.break_off()
        self.note("network", "reset %d connections of %s", count, host)
        return count

    def take_down(self, host: str) -> None:
        """The host stops answering."""
        self._down.add(host)

    def bring_up(self, host: str) -> None:
        """The host answers again."""
        self._down.discard(host)

    def _refresh(self) -> None:
        for link in self._links.values():
            self._apply(link)
            if not link.blocked and link.stalled:
                stalled, link.stalled = link.stalled, {}
                for wire in stalled:
                    wire.unstall(self.random.uniform(*self.options.retransmit_s) + link.delay())

    def _apply(self, link: Link) -> None:
        link.blocked = any(cut.covers(link.source, link.target) for cut in self._cuts)
        link.factor = self._slow.get(link.source, 1.0) * self._slow.get(link.target, 1.0)

    # -- links -------------------------------------------------------------------------------------

    def link(self, source: str, target: str) -> Link:
        """The way from one host to another."""
        link = self._links.get((source, target))
        if link is None:
            options = self.options
            latency = options.own_latency if source == target else options.latency
            link = self._links[source, target] = Link(source, target, latency, self.random)
            self._apply(link)
        return link

    def set_latency(self, source: str, target: str, latency: Latency) -> None:
        """Give one direction between two hosts its own latency."""
        self.link(source, target).latency = latency

    def strike(self, loss: Loss, wire: Wire, frame: bytes) -> bool:
        """Draw the fate of a frame; True if it does not take the ordinary way."""
        random = self.random.random
        if random() < loss.drop:
            self.dropped += 1
            self._note_link(wire.link, "lost a frame of %d bytes to %s", len(frame))
            wire.lose(frame)
            return True
        if random() < loss.duplicate:
            self.duplicated += 1
            self._note_link(wire.link, "repeats a frame of %d bytes to %s", len(frame))
            wire.put_apart(random() * loss.delay_max_s, frame)
        if random() < loss.delay:
            self.delayed += 1
            self._note_link(wire.link, "delays a frame of %d bytes to %s", len(frame))
            wire.put_apart(random() * loss.delay_max_s, frame)
            return True
        return False

    def draw_split(self, size: int) -> int:
        """Where to cut a chunk of `size` bytes in two; 0 for nowhere."""
        split = self.options.split
        if not split or size < 2 or self.random.random() >= split:
            return 0
        return 1 + int(self.random.random() * (size - 1))

    def draw_stall_timeout(self) -> float:
        """How long a sender waits for a cut link before it gives up."""
        return self.random.uniform(*self.options.stall_timeout_s)

    # -- connections -------------------------------------------------------------------------------

    async def connect(
        self, protocol_factory: Callable[[], _ProtocolT], host: str, port: int
    ) -> tuple[SimTransport, _ProtocolT]:
        """What `loop.create_connection` does. Raises ConnectionRefusedError or TimeoutError."""
        owner = _current_owner()
        source, target = owner.host, owner.host if host in _OWN_NAMES else host
        end = SimTransport(
            self,
            owner,
            contextvars.copy_context(),
            self.link(source, target),
            (source, self._ephemeral_port()),
            (target, port),
        )
        end.waiter = self.loop.create_future()
        deadline = self.loop.now + self.random.uniform(*self.options.connect_timeout_s)
        self.loop.call_later(
            end.wire.link.delay(), self._on_request, end, deadline, 0.5, context=ROOT
        )
        try:
            await end.waiter
        except BaseException:
            end.abort()
            raise
        protocol = protocol_factory()
        end.start(protocol)
        return end, protocol

    def _on_request(self, end: SimTransport, deadline: float, retry_s: float) -> None:
        if end.lost:
            return
        source, target = end.local[0], end.remote[0]
        link, back = end.wire.link, self.link(target, source)
        if link.blocked or back.blocked or target in self._down:
            now = self.loop.now
            if now >= deadline:
                self.note(source, "no answer from %s:%d", *end.remote)
                end.lose(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
            else:
                at = min(now + retry_s, deadline)
                self.loop.call_at(at, self._on_request, end, deadline, 2 * retry_s, context=ROOT)
            return
        listener = self._listeners.get(end.remote)
        if listener is None:
            self.note(target, "refuses %s:%d", *end.local)
            refusal = ConnectionRefusedError(errno.ECONNREFUSED, f"{target} refused the connection")
            self.loop.call_later(back.delay(), end.lose, refusal, context=ROOT)
            return
        self.note(target, "accepts %s:%d", *end.local)
        self._connections[end] = None
        listener.accept(end, back)

    def on_connection_over(self, end: SimTransport, peer: SimTransport) -> None:
        """Both ends are gone."""
        self._connections.pop(end, None)
        self._connections.pop(peer, None)

    def _ephemeral_port(self) -> int:
        self._next_port += 1
        return self._next_port

    # -- listeners ---------------------------------------------------------------------------------

    def listen(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None,
        port: int,
        start_serving: bool = True,
    ) -> Listener:
        """What `loop.create_server` does. Raises OSError: address in use, or not this host's."""
        owner = _current_owner()
        for name in [host] if isinstance(host, str) else host or ():
            if name not in _OWN_NAMES and name != owner.host:
                raise OSError(errno.EADDRNOTAVAIL, f"{name} is not an address of {owner.host}")
        address = (owner.host, port or self._ephemeral_port())
        if address in self._listeners:
            raise OSError(errno.EADDRINUSE, f"{address[0]}:{address[1]} is in use")
        listener = Listener(self, owner, protocol_factory, address)
        if start_serving:
            listener.serve()
        return listener

    def serve(self, listener: Listener) -> None:
        """Route connections for its address to the listener."""
        self._listeners[listener.address] = listener

    def unlisten(self, listener: Listener) -> None:
        """Refuse connections for the listener's address from now on."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    # -- trace -------------------------------------------------------------------------------------

    def _note_link(self, link: Link, text: str, size: int) -> None:
        self._trace.add(self.loop.now, link.source, text, size, link.target)

    def note(self, host: str, text: str, *args: Plain) -> None:
        """Record what happened at a host."""
        self._trace.add(self.loop.now, host, text, *args)


def _current_owner() -> Owner:
    owner = OWNER.get()
    if owner is None:
        raise RuntimeError("only a process on a host can use the network: spawn one")
    return owner
