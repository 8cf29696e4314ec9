"""Connecting: from a URL to a `Worm`.

The file is not named after its function: importing a module `wormspace.connect` would put it in the
place of the function.

| URL | what it is |
|---|---|
| `memory:` | one acceptor in this process, nothing kept |
| `file:PATH` | one acceptor in this process, durable in the directory PATH; no server |
| `worm://h1:p1,h2:p2,h3:p3` | a cluster of one partition; `/` separates partitions |
| `spec:` | the executable specification; for tests |

`?cluster=ID` makes sure that it is that cluster; `?durability=os` (for `file:`) trades the sync of
every commit for speed, and is decided once, when the directory is made.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qsl, unquote

from wormspace.errors import BadUrl, Refused, StoreError, Unavailable, UsageError
from wormspace.paxos.quorum import majority
from wormspace.register.contract import Registers
from wormspace.register.partition import Partition
from wormspace.register.paxos_registers import PaxosRegisters
from wormspace.register.spec import SpecRegisters
from wormspace.runtime.endpoints import Endpoint
from wormspace.server.embedded import open_embedded
from wormspace.server.local import LocalLink
from wormspace.server.node import MAX_VALUE_BYTES, Node
from wormspace.space.arguments import as_rng, as_timeout
from wormspace.space.client import DEFAULT_TIMEOUT_S
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.link import Link, TcpLink
from wormspace.wire.membership import Membership, OneCluster
from wormspace.worm import Worm

POLL_S = 0.005
GRACE_S = 0.1


class Connection:
    """What `connect` returns: `async with` it, or await it and close the client yourself."""

    def __init__(self, url: str, timeout: float, rng: random.Random | None) -> None:
        self._url = url
        self._timeout = timeout
        self._rng = rng
        self._client: Worm | None = None

    def __await__(self) -> Generator[object, None, Worm]:
        return _open(self._url, self._timeout, self._rng).__await__()

    async def __aenter__(self) -> Worm:
        self._client = await self
        return self._client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
    scheme, rest, options = _split(url)
    if scheme != "worm":
        return await _open(url, timeout)
    rng = random.SystemRandom()
    return Worm(_dial(rest, options, rng)[0], rng, timeout)


def _split(url: str) -> tuple[str, str, dict[str, str]]:
    if not isinstance(url, str):
        raise BadUrl(f"a URL is a str, not {type(url).__name__}; for a path, f'file:{{path}}'")
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise BadUrl(f"{url!r} is no URL; try memory:, file:PATH or worm://HOST:PORT,...")
    rest, _, query = rest.partition("?")
    return scheme, rest, dict(parse_qsl(query, keep_blank_values=True))


async def _open(url: str, timeout: float, given: random.Random | None = None) -> Worm:
    scheme, rest, options = _split(url)
    timeout, rng = as_timeout(timeout), as_rng(given)
    openers = {"memory": _memory, "file": _file, "worm": _cluster, "spec": _spec}
    if scheme not in openers:
        known = ", ".join(f"{name}:" for name in openers)
        raise BadUrl(f"{url!r}: no register implementation {scheme!r}; there are {known}")
    registers = await openers[scheme](rest, options, timeout, rng)
    return Worm(registers, rng, timeout, embedded=scheme != "worm")


def _only(options: dict[str, str], *known: str) -> None:
    for name in options:
        if name not in known:
            raise BadUrl(f"no option {name!r} in such a URL; there is {', '.join(known) or 'none'}")


async def _spec(
    rest: str, options: dict[str, str], timeout: float, rng: random.Random
) -> Registers:
    _only(options)
    return SpecRegisters(rng.getrandbits(64).to_bytes(8, "big"), MAX_VALUE_BYTES)


async def _memory(
    rest: str, options: dict[str, str], timeout: float, rng: random.Random
) -> Registers:
    _only(options)
    if rest:
        raise BadUrl("memory: takes no path; file:PATH is the durable one")
    return _embedded(Node(MemoryEngine()), "memory", rng)


async def _file(
    rest: str, options: dict[str, str], timeout: float, rng: random.Random
) -> Registers:
    _only(options, "durability")
    durability = options.get("durability", "sync")
    if durability not in ("sync", "os"):
        raise BadUrl(f"durability is sync or os, not {durability!r}")
    if not rest:
        raise BadUrl("file: needs a directory: file:PATH")
    path = _path(rest)
    if sys.platform == "win32":
        raise StoreError("file: needs Linux or macOS; on Windows, connect to a cluster")
    return _embedded(Node(await open_embedded(path, durability)), f"file:{path}", rng)


def _path(text: str) -> Path:
    """The directory that a file: URL names."""
    path = Path(unquote(text.removeprefix("//")))
    if "\0" in str(path):
        raise BadUrl(f"{str(path)!r} is no path")
    try:
        return path.expanduser()
    except RuntimeError as e:
        raise BadUrl(f"{str(path)!r}: {e}") from e


def _embedded(node: Node, name: str, rng: random.Random) -> Registers:
    return PaxosRegisters([Partition(0, [LocalLink(node, name)])], rng)


async def _cluster(
    rest: str, options: dict[str, str], timeout: float, rng: random.Random
) -> Registers:
    registers, partitions = _dial(rest, options, rng)
    try:
        await _reach_majorities(partitions, timeout)
    except BaseException:
        await registers.close()
        raise
    return registers


def _dial(
    rest: str, options: dict[str, str], rng: random.Random
) -> tuple[PaxosRegisters, list[Partition]]:
    """Begin to connect to every server of a cluster, and wait for none."""
    _only(options, "cluster")
    if not rest.startswith("//") or not rest[2:]:
        raise BadUrl("a cluster is worm://HOST:PORT,HOST:PORT,...")
    sets = [part.split(",") for part in rest[2:].rstrip("/").split("/")]
    try:
        places = [[Endpoint.parse(one) for one in part] for part in sets]
    except UsageError as e:
        raise BadUrl(str(e)) from None
    client = f"{rng.getrandbits(64):016x}"
    partitions = []
    cluster = OneCluster()
    for index, addresses in enumerate(places):
        membership = Membership(index, len(places), len(addresses), cluster)
        links: list[Link] = [
            TcpLink(
                host,
                port,
                membership,
                cluster=options.get("cluster", ""),
                client=client,
                rng=rng,
            )
            for host, port in addresses
        ]
        partitions.append(Partition(index, links))
    return PaxosRegisters(partitions, rng), partitions


async def _reach_majorities(partitions: list[Partition], timeout: float) -> None:
    """Wait until a majority of every partition is up, and a moment longer for the others.

    A server that is not up yet would miss the first captures, and work harder ever after.

    Raises:
        Refused, Unavailable.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    for partition in partitions:
        while sum(link.up for link in partition.links) < majority(partition.size):
            refusal = partition.refusal()
            if refusal:
                raise Refused(str(refusal), refusal.code)
            if loop.time() >= deadline:
                raise Unavailable(str(partition.unavailable("connecting", partition.up)))
            await asyncio.sleep(POLL_S)
    for _ in range(round(GRACE_S / POLL_S)):
        if loop.time() >= deadline or all(link.up for p in partitions for link in p.links):
            return
        await asyncio.sleep(POLL_S)
