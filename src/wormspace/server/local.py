"""A link to a node in this very process: what `memory:` and `file:` use instead of a socket."""

from __future__ import annotations

import asyncio

from wormspace.errors import Refused
from wormspace.server.node import Node
from wormspace.wire.link import Outgoing, Receiver
from wormspace.wire.messages import ServerMessage


class LocalLink:
    """A `wire.link.Link` and a `server.listeners.ReplyTo` back to back.

    Answers are delivered in a later turn of the event loop, as over a network.
    """

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self.name = name
        self.quiet = False
        self.refused: Refused | None = None
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._server = -1

    @property
    def up(self) -> bool:
        return self._receiver is not None

    @property
    def trouble(self) -> str:
        return "" if self.up else "closed"

    @property
    def max_value(self) -> int:
        return self._node.max_value

    def start(self, receiver: Receiver, server: int) -> None:
        self._receiver, self._server = receiver, server

    def post(self, outgoing: Outgoing) -> None:
        if self.up:
            self._node.submit(self, outgoing.id, outgoing.message)

    async def close(self) -> None:
        self._receiver = None
        self._node.forget(self)
        await self._node.stop()

    def answer(self, request_id: int, message: ServerMessage) -> None:
        self._loop.call_soon(self._deliver, request_id, message)

    def congested(self) -> bool:
        return False

    def _deliver(self, request_id: int, message: ServerMessage) -> None:
        if self._receiver is not None:
            self._receiver.on_message(self._server, request_id, message)
