"""The shipped server as a process of a simulated world."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from wormspace.errors import StoreError, StoreFull
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.listener import Server
from wormspace.sim.world import current

PORT = 7000
RESTART_S = 0.1


def serving(
    identity: ServerIdentity, *, limits: Limits | None = None, real_store: bool = False
) -> Callable[[], Awaitable[None]]:
    """The main coroutine of a server, which keeps its registers on its host's disk.

    When its store fails it ends with that error, unless the disk is to blame: after a call of the
    system that failed, it starts again; on a disk that is `rotten` it refuses to start.

    Args:
        real_store: whether it has the real store, on simulated files, or the simulated one.
    """

    async def serve() -> None:
        process = current()
        world, disk = process.world, process.world.host(process.host).disk()
        while True:
            try:
                engine = disk.open_store() if real_store else disk.open()
            except StoreFull:
                await asyncio.sleep(RESTART_S)
                continue
            except StoreError as e:
                if disk.has_erred():
                    world.note(identity.server, "cannot start: %s", disk.words(e))
                    await asyncio.sleep(RESTART_S)
                    continue
                if not disk.rotten:
                    raise
                world.note(identity.server, "refuses to start: %s", disk.words(e))
                await asyncio.Event().wait()
            server = Server(identity, engine, limits or Limits())
            await server.start("0.0.0.0", PORT)
            error = await server.failed
            if not disk.has_erred() and not disk.rotten:
                raise error
            world.note(identity.server, "stops: %s", disk.words(error))
            await server.stop()
            disk.release()

    return serve
