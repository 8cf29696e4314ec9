"""A simulated listening port.

The host accepts a connection at once, as a kernel does; the process is told when it next runs.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import NamedTuple, Protocol

from wormspace.sim._handles import Owner
from wormspace.sim._transport import SimTransport, TransportNetwork
from wormspace.sim._wire import Address, Link, Signal


class ListenerNetwork(TransportNetwork, Protocol):
    """The network, as a listening port sees it."""

    def serve(self, listener: Listener) -> None: ...
    def unlisten(self, listener: Listener) -> None: ...


class ListeningSocket(NamedTuple):
    """What `server.sockets` shows of a socket."""

    address: Address

    def getsockname(self) -> Address:
        """The host name and the port."""
        return self.address


class Listener(asyncio.AbstractServer):
    """A listening port, with the interface of asyncio.Server."""

    def __init__(
        self,
        network: ListenerNetwork,
        owner: Owner,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        address: Address,
    ) -> None:
        self._network = network
        self._owner = owner
        self._factory = protocol_factory
        self._context = contextvars.copy_context()
        self._open = True
        self._serving = False
        self._over: asyncio.Future[None] | None = None
        self.address = address
        owner.resources[self] = None

    @property
    def sockets(self) -> tuple[ListeningSocket, ...]:
        """The listening sockets; none after close."""
        return (ListeningSocket(self.address),) if self._open else ()

    def accept(self, caller: SimTransport, back: Link) -> None:
        """A connection request arrived: open this end of it and answer."""
        context = self._context.copy()
        end = SimTransport(self._network, self._owner, context, back, caller.remote, caller.local)
        end.peer, caller.peer = caller, end
        end.wire.put_signal(Signal.ESTABLISHED)
        self._network.loop.call_soon(self._accept, end, context=context)

    def _accept(self, end: SimTransport) -> None:
        if self._open:
            end.start(self._factory())
        else:
            end.abort()

    def close(self) -> None:
        """Stop listening; connections stay."""
        if self._open:
            self._open = False
            self._network.unlisten(self)
            self._owner.resources.pop(self, None)
            if self._over is not None and not self._over.done():
                self._over.set_result(None)

    def vanish(self, *, silence_s: float, clean: bool) -> None:
        """The process died."""
        self._open = False
        self._network.unlisten(self)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""
        return self._network.loop

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return self._open and self._serving

    async def start_serving(self) -> None:
        """Accept connections from now on."""
        self.serve()

    def serve(self) -> None:
        """Accept connections from now on."""
        if self._open and not self._serving:
            self._serving = True
            self._network.serve(self)

    async def serve_forever(self) -> None:
        """Accept connections until closed or cancelled."""
        self.serve()
        self._over = self._network.loop.create_future()
        try:
            await self._over
        finally:
            self.close()

    async def wait_closed(self) -> None:
        """Return at once, as asyncio's and uvloop's do in Python 3.11."""
