"""Sequencers of logs inside a server's process: for those who want no process more.

The server does not know of them.  They reach the cluster as any client does, and a sequencer that
fails leaves the server as it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from wormspace.connecting import connect
from wormspace.errors import Unavailable, WormError
from wormspace.runtime.tasks import Tasks

log = logging.getLogger("wormspace.log")

RETRY_S = 1.0
LEAVE_S = 2.0
"""How long they may take to say that they leave."""


@asynccontextmanager
async def sequencers(url: str, names: Sequence[str], host: str) -> AsyncIterator[None]:
    """As long as it lasts, this process is the sequencer of these logs, or stands by."""
    tasks = Tasks("a sequencer")
    for name in names:
        tasks.spawn(_sequence(url, name, host))
    try:
        yield
    finally:
        tasks.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LEAVE_S)


async def _sequence(url: str, name: str, host: str) -> None:
    while True:
        try:
            async with connect(url) as worm:
                opened = await worm.log(name, host=host)
                await opened.stand_by()
        except Unavailable as e:
            log.info("%s: not sequenced here yet: %s", name, e)
            await asyncio.sleep(RETRY_S)
        except WormError as e:
            log.error("%s: not sequenced here: %s", name, e)
            return
