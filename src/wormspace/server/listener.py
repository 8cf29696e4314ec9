"""The wormserver: its socket, its connections, a graceful stop."""

from __future__ import annotations

import asyncio
import logging

from wormspace.errors import StoreError
from wormspace.server.complaints import Complaints
from wormspace.server.connection import Connection
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.node import Node
from wormspace.store.engine import Engine
from wormspace.wire.accepting import Guests

log = logging.getLogger("wormspace.server")


class Server:
    """A listening wormserver.

    Args:
        identity: told to every client; clients of another cluster are refused.
        engine: the store; the server closes it.
    """

    def __init__(
        self,
        identity: ServerIdentity,
        engine: Engine,
        limits: Limits,
        node_type: type[Node] = Node,
    ) -> None:
        self.identity = identity
        self.limits = limits
        self.failed: asyncio.Future[StoreError] = asyncio.get_running_loop().create_future()
        self.node = node_type(
            engine,
            max_value=limits.max_value,
            max_listeners=limits.max_listeners,
            on_fatal=self._on_fatal,
        )
        self.node.more_metrics = self.metrics
        self.guests = Guests(
            limits.max_connections,
            limits.max_backlog,
            limits.stall_timeout_s,
            limits.greeting_timeout_s,
        )
        self.complaints = Complaints()
        self.refused = 0
        self.malformed = 0

    async def start(self, host: str, port: int) -> int:
        """Begin to listen; returns the port, which the system chooses if it was 0."""
        actual = await self.guests.listen(lambda: Connection(self), host, port)
        log.info(
            "listening",
            extra={"host": host, "port": actual, "server": self.identity.server},
        )
        return actual

    async def stop(self) -> None:
        """Stop listening, answer what was taken in, close connections and store."""
        self.guests.stop_listening()
        await self.node.stop()
        self.guests.hang_up()
        self.complaints.close()
        log.info("stopped", extra={"server": self.identity.server})

    def metrics(self) -> dict[str, int]:
        """What the socket side adds to the node's metrics."""
        return {
            "connections": len(self.guests.served),
            "connections_refused": self.refused,
            "malformed": self.malformed,
            "inflow_bytes": self.guests.inflow.bytes,
        }

    def _on_fatal(self, error: StoreError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)
