"""Servers and clients in one process, with the wires between them in the test's hand."""

from __future__ import annotations

import asyncio
import contextlib
import random

from wormspace.registers.paxos.client import PaxosRegisters
from wormspace.registers.paxos.partition import Partition
from wormspace.server.node import Node
from wormspace.sim import World as SimulatedWorld
from wormspace.space.client import Client
from wormspace.store.memory_engine import MemoryEngine


class Wire:
    """A `wire.link.Link` to a node that can be cut, held, and watched.

    Attributes:
        up: whether a post has a chance to arrive.
        drop: called with each request; true loses it.
        held: answers wait here while it is a list.
    """

    def __init__(self, node: Node, name: str) -> None:
        self.node, self.name = node, name
        self.up = True
        self.drop = lambda message: False
        self.held: list | None = None
        self.sent: list = []
        self.refused = None
        self.quiet = False
        self._loop = asyncio.get_running_loop()
        self._receiver = None

    @property
    def trouble(self) -> str:
        return "" if self.up else "cut"

    @property
    def max_value(self) -> int:
        return self.node.max_value

    def start(self, receiver, server: int) -> None:
        self._receiver, self._server = receiver, server

    def cut(self) -> None:
        """Nothing passes any more; what is under way is lost."""
        self.up = False
        self.node.forget(self)
        self._receiver.on_down(self._server)

    def mend(self) -> None:
        self.up = True
        self._receiver.on_up(self._server)

    def post(self, outgoing) -> None:
        if self.up and not self.drop(outgoing.message):
            self.sent.append(outgoing.message)
            self.node.submit(self, outgoing.id, outgoing.message)

    def answer(self, request_id: int, message) -> None:
        if self.held is not None:
            self.held.append((request_id, message))
        else:
            self._loop.call_soon(self._deliver, request_id, message)

    def release(self) -> None:
        """Let the held answers through."""
        held, self.held = self.held, None
        for item in held:
            self.answer(*item)

    def _deliver(self, request_id: int, message) -> None:
        if self.up and self._receiver is not None:
            self._receiver.on_message(self._server, request_id, message)

    def congested(self) -> bool:
        return False

    async def close(self) -> None:
        self._receiver = None
        self.node.forget(self)


class World:
    """Servers `nodes`, and the clients that were made; `wires[client][server]`."""

    def __init__(self, servers: int) -> None:
        self.engines = [MemoryEngine() for _ in range(servers)]
        self.nodes = [Node(engine) for engine in self.engines]
        self.clients: list[Client] = []
        self.wires: list[list[Wire]] = []

    def client(self, timeout: float = 5.0) -> Client:
        """One more client, with wires of its own."""
        wires = [Wire(node, f"s{i}") for i, node in enumerate(self.nodes)]
        rng = random.Random(len(self.clients) + 1)
        registers = PaxosRegisters([Partition(0, wires)], rng)
        client = Client(registers, rng, timeout)
        client.wires = wires
        self.clients.append(client)
        self.wires.append(wires)
        return client

    def replace(self, server: int, engine=None) -> None:
        """Server `server` comes back on another store (it must not; to show why)."""
        self.engines[server] = engine or MemoryEngine()
        self.nodes[server] = Node(self.engines[server])
        for wires in self.wires:
            wires[server].node = self.nodes[server]

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        for node in self.nodes:
            await node.stop()


@contextlib.asynccontextmanager
async def world(servers: int = 3):
    w = World(servers)
    try:
        yield w
    finally:
        await w.close()


def delay(w: World, seconds: float) -> None:
    """Every answer of every server takes so long, to the clients made so far."""
    for wires in w.wires:
        for wire in wires:
            wire.answer = lambda request_id, message, wire=wire: wire._loop.call_later(
                seconds, wire._deliver, request_id, message
            )


def simulated(work):
    """Run a coroutine function on a simulated loop."""
    with SimulatedWorld(1) as s:
        return s.run(work())
