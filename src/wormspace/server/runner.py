"""A wormserver as a process: signals, store, socket, and how it ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from wormspace.errors import WrongIdentity
from wormspace.runtime.collector import collect_seldom
from wormspace.runtime.tasks import Tasks
from wormspace.server import descriptors, identity
from wormspace.server.config import ClusterConfig, ServerConfig
from wormspace.server.listener import Server
from wormspace.server.node import Node
from wormspace.server.storage import AcceptorStore
from wormspace.store.engine import Engine
from wormspace.store.memory_engine import MemoryEngine


def last_words(server: ServerConfig, base: Path) -> str:
    """What is said where a signal ends the server: LMDB's way out of a page that cannot be."""
    return (
        f"the store of server {server.name} is {(base / server.data).absolute()}: see docs/"
        "operations.md, 'Ended by a signal'"
    )


async def open_engine(config: ClusterConfig, server: ServerConfig, base: Path) -> Engine:
    """Open the server's store and check that it is this server's, on the terms of the file.

    Raises:
        WrongIdentity, NewerFormat, StoreLocked, StoreError.
    """
    directory = base / server.data
    who = config.terms(server)
    if not directory.is_dir():
        raise WrongIdentity(
            f"{directory} is not there; {who} can only run on the directory that was prepared for "
            "it by `wormspace cluster init`"
        )
    engine = _open_directory(config, directory)
    try:
        identity.require(engine, who, directory)
        if config.durability == "memory":
            await identity.start_in_memory(engine, who)
    except BaseException:
        engine.close()
        raise
    if config.durability == "memory":
        engine.close()
        return MemoryEngine()
    return engine


def _open_directory(config: ClusterConfig, directory: Path) -> AcceptorStore:
    return AcceptorStore(
        directory,
        durability="os" if config.durability == "os" else "sync",
        max_bytes=config.max_store_bytes,
    )


async def prepare_directory(config: ClusterConfig, server: ServerConfig, base: Path) -> None:
    """Make the server's data directory and give it its identity."""
    directory = base / server.data
    engine = AcceptorStore(directory, max_bytes=config.max_store_bytes)
    try:
        await identity.prepare(engine, config.terms(server), directory)
    finally:
        engine.close()


async def serve(
    config: ClusterConfig,
    server: ServerConfig,
    base: Path,
    ready: Callable[[], None] = lambda: None,
    node_type: type[Node] = Node,
) -> None:
    """Run one server until SIGTERM or SIGINT; calls `ready` when it listens.

    `node_type` is for benchmarks, which measure what a simpler node would cost.

    Raises:
        UsageError: there are too few file descriptors.
        StoreError: the store cannot be used, or failed for another reason than being full.
        OSError: the address cannot be listened on.
    """
    affordable = descriptors.connections(config.limits.max_connections, descriptors.raise_limit())
    limits = msgspec.structs.replace(config.limits, max_connections=affordable)
    engine = await open_engine(config, server, base)
    running = Server(config.identity(server), engine, limits, node_type)
    collect_seldom()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    try:
        try:
            await running.start(server.bind or server.endpoint.host, server.port)
        except OSError:
            if config.durability == "memory":
                await _take_back_start(config, base / server.data)
            raise
        ready()
        async with Tasks("a signal to stop") as tasks:
            stopping = tasks.begin(stop.wait())
            await asyncio.wait((stopping, running.failed), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await running.stop()
    if running.failed.done():
        raise running.failed.result()


async def _take_back_start(config: ClusterConfig, directory: Path) -> None:
    engine = _open_directory(config, directory)
    try:
        await identity.take_back_start(engine)
    finally:
        engine.close()
