"""Registers in the user's own process: one acceptor, and no server.

`memory:` keeps nothing.  `file:PATH` is durable, in the directory PATH; `?durability=os` trades the
sync of every commit for speed, and is decided once, when the directory is made.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from urllib.parse import unquote

from wormspace.errors import BadUrl, StoreError
from wormspace.registers.interface import Registers
from wormspace.registers.paxos.client import PaxosRegisters
from wormspace.registers.paxos.partition import Partition
from wormspace.registers.registry import Implementation, Url
from wormspace.server import identity
from wormspace.server.local import LocalLink
from wormspace.server.node import Node
from wormspace.server.storage import AcceptorStore
from wormspace.store.engine import Engine
from wormspace.store.memory_engine import MemoryEngine


def registers_of(node: Node, name: str, rng: random.Random) -> Registers:
    """The registers of a single acceptor."""
    return PaxosRegisters([Partition(0, [LocalLink(node, name)])], rng)


async def _memory(url: Url, *, rng: random.Random, deadline: float, wait: bool) -> Registers:
    url.allow()
    if url.rest:
        raise BadUrl("memory: takes no path; file:PATH is the durable one")
    return registers_of(Node(MemoryEngine()), "memory", rng)


async def _file(url: Url, *, rng: random.Random, deadline: float, wait: bool) -> Registers:
    url.allow("durability")
    durability = url.options.get("durability", "sync")
    if durability not in ("sync", "os"):
        raise BadUrl(f"durability is sync or os, not {durability!r}")
    if not url.rest:
        raise BadUrl("file: needs a directory: file:PATH")
    path = _path(url.rest)
    if sys.platform == "win32":
        raise StoreError("file: needs Linux or macOS; on Windows, connect to a cluster")
    return registers_of(Node(await _open_store(path, durability)), f"file:{path}", rng)


def _path(text: str) -> Path:
    """The directory that a file: URL names."""
    path = Path(unquote(text.removeprefix("//")))
    if "\0" in str(path):
        raise BadUrl(f"{str(path)!r} is no path")
    try:
        return path.expanduser()
    except RuntimeError as e:
        raise BadUrl(f"{str(path)!r}: {e}") from e


async def _open_store(path: Path, durability: str) -> Engine:
    """Open the directory, or make it.

    Raises:
        StoreLocked: another process, or this one, has it open.
        WrongIdentity: it is a server's, or was made with another durability.
        NewerFormat: a newer wormspace made it.
        StoreError: it cannot be used.
    """
    engine = AcceptorStore(path, durability=durability)
    try:
        await identity.prepare(engine, identity.embedded(durability), path)
    except BaseException:
        engine.close()
        raise
    return engine


MEMORY = Implementation(_memory, "memory:", embedded=True, trial="memory:")
FILE = Implementation(_file, "file:PATH", embedded=True, trial="file:{directory}/store")
