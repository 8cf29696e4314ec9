"""The other sites of a transaction space: how this one reaches them, and they it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from wormspace.errors import WormError
from wormspace.rpc import Caller, Service
from wormspace.runtime.endpoints import Endpoint, as_listening
from wormspace.runtime.tasks import Tasks
from wormspace.tx.messages import SERVICE, ToSite, ToSpace, encode
from wormspace.tx.vote_store import VoteStore

log = logging.getLogger("wormspace.tx")


class Peers:
    """How one site calls the others, and is called by them.

    Attributes:
        initiator: the name under which this site starts transactions.
        address: where the others reach it, HOST:PORT; empty before `start`.
        vote_store: that of the transaction space.
    """

    def __init__(self, initiator: str, vote_store: VoteStore, tasks: Tasks) -> None:
        self.initiator = initiator
        self.address = ""
        self.vote_store = vote_store
        self._tasks = tasks
        self._callers: dict[str, Caller] = {}
        self._service: Service | None = None

    async def start(
        self, answer: Callable[[bytes], Awaitable[bytes]], host: str, port: int, address: str
    ) -> str:
        """Serve at a host and port, as `Site.start` does; `answer` does what they ask."""
        as_listening(host, port)
        if address != "":
            Endpoint.parse(address)
        self._service = Service({SERVICE: answer})
        chosen = await self._service.start(host, port)
        self.address = address or str(Endpoint(host, chosen))
        return self.address

    async def close(self) -> None:
        """Answer no more, and hang up."""
        if self._service is not None:
            await self._service.stop()
        for caller in self._callers.values():
            await caller.close()

    async def call(self, address: str, message: ToSite, timeout: float) -> bytes:
        """Say something to another site of this transaction space, which is open.

        Raises:
            NoAnswer, Failure.
        """
        caller = self._callers.get(address)
        if caller is None:
            caller = self._callers[address] = Caller(*Endpoint.parse(address))
        request = ToSpace(self.vote_store.home.identity, message)
        return await caller.call(SERVICE, encode(request), timeout)

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something that nobody waits for; a `WormError` of it is logged."""
        self._tasks.spawn(work, _on_spawned_done)


def _on_spawned_done(task: asyncio.Task[object]) -> None:
    error = None if task.cancelled() else task.exception()
    if isinstance(error, WormError):
        log.info("tx: %s", error)
    elif error is not None:
        task.get_loop().call_exception_handler({"message": "in a site", "exception": error})
