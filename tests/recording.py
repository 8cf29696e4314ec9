"""A proxy before each server of a cluster, which tells a `ProtocolCheck` all that passes it."""

import asyncio

from wormspace.sim.protocol import ProtocolCheck
from wormspace.sim.wiretap import Wiretap


class Recorder:
    """Proxies for servers at these ports of this machine; use it as an asynchronous context.

    Attributes:
        check: what it tells.
        ports: its own, in the order of the servers'.
    """

    def __init__(self, ports):
        self.check = ProtocolCheck()
        self.ports = []
        self._targets = ports
        self._tap = Wiretap(self.check)
        self._servers = []
        self._tasks = set()

    def url(self, cluster):
        """What a client connects to, so that it is recorded."""
        return f"worm://{','.join(f'127.0.0.1:{port}' for port in self.ports)}?cluster={cluster}"

    async def __aenter__(self):
        for target in self._targets:

            async def accept(reader, writer, target=target):
                task = asyncio.current_task()
                self._tasks.add(task)
                try:
                    await self._pass_on(reader, writer, target)
                except asyncio.CancelledError:
                    writer.transport.abort()
                finally:
                    self._tasks.discard(task)

            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_):
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(self, reader, writer, target):
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.transport.abort()
            return
        key = object()
        ways = [
            asyncio.ensure_future(self._carry(key, reader, to_there, upward=True)),
            asyncio.ensure_future(self._carry(key, there, writer, upward=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, to_there):
                end.transport.abort()

    async def _carry(self, key, source, target, *, upward):
        while data := await source.read(1 << 16):
            # Both at once: what comes in here has left the one end, and cannot be with the other.
            for leaving in (True, False):
                self._tap.feed(key, "client", data, upward=upward, leaving=leaving)
            target.write(data)
            await target.drain()
