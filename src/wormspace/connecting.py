"""Connecting: from a URL to a `Worm`.

The file is not named after its function: importing a module `wormspace.connect` would put it in the
place of the function.

What a URL may be is said where its implementation is, which `wormspace.registers.registry` finds:

| URL | what it is | where |
|---|---|---|
| `memory:` | one acceptor in this process, nothing kept | `wormspace.server.embedded` |
| `file:PATH` | the same, durable in the directory PATH; no server | `wormspace.server.embedded` |
| `worm://h1:p1,h2:p2,h3:p3` | the servers of a cluster | `wormspace.registers.paxos.cluster` |
| `spec:` | the executable specification; for tests | `wormspace.registers.spec` |

Other packages add schemes of their own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Generator

from wormspace.errors import BadUrl
from wormspace.registers.registry import Url, find
from wormspace.space.arguments import as_rng, as_timeout
from wormspace.space.client import DEFAULT_TIMEOUT_S
from wormspace.worm import Worm


class Connection:
    """What `connect` returns: `async with` it, or await it and close the client yourself."""

    def __init__(self, url: str, timeout: float, rng: random.Random | None) -> None:
        self._url = url
        self._timeout = timeout
        self._rng = rng
        self._client: Worm | None = None

    def __repr__(self) -> str:
        return f"<Connection to {self._url!r}>"

    def __await__(self) -> Generator[object, None, Worm]:
        return _open(self._url, self._timeout, self._rng, wait=True).__await__()

    async def __aenter__(self) -> Worm:
        self._client = await self
        return self._client

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()


def connect(
    url: str, *, timeout: float = DEFAULT_TIMEOUT_S, rng: random.Random | None = None
) -> Connection:
    """Connect to an address space.

        async with wormspace.connect("file:./state") as worm:
            segment = await worm.space("orders").alloc()

    Args:
        url: `memory:`, `file:PATH` or `worm://HOST:PORT,...`; see the module's table.
        timeout: the default deadline of every call on the client, and that of connecting, in
            seconds.
        rng: where proposer ids, nonces and back-off pauses come from; by default the system.

    Raises (when awaited):
        BadUrl: the URL makes no sense.
        UsageError: the timeout is no positive number of seconds, or `rng` no `random.Random`.
        Unavailable: no majority of some partition could be reached in time.
        Refused: the servers do not want this client, or are not those that were named.
        StoreError: the directory cannot be used: it is open elsewhere, or not an embedded one.
    """
    return Connection(url, timeout, rng)


async def survey(url: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Worm:
    """As `connect`, but without waiting for a majority: for tools that show who is there.

    Raises:
        BadUrl, StoreError.
    """
    return await _open(url, timeout, None, wait=False)


async def _open(text: str, timeout: float, given: random.Random | None, *, wait: bool) -> Worm:
    url = Url.parse(text)
    timeout, rng = as_timeout(timeout), as_rng(given)
    try:
        implementation = find(url.scheme)
    except BadUrl as e:
        raise BadUrl(f"{text!r}: {e}") from e.__cause__
    deadline = asyncio.get_running_loop().time() + timeout
    registers = await implementation.open(url, rng=rng, deadline=deadline, wait=wait)
    return Worm(registers, rng, timeout, url=text, embedded=implementation.embedded)
