"""A store that is nobody's server: what `file:PATH` opens in the user's own process."""

from __future__ import annotations

from pathlib import Path

from wormspace.server import identity
from wormspace.server.storage import AcceptorStore
from wormspace.store.engine import Engine


async def open_embedded(path: Path, durability: str) -> Engine:
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
