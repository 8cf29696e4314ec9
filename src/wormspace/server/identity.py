"""Whose promises a data directory keeps.

A server's promises live in its data directory, so the directory *is* the server: one that comes
back with an empty or somebody else's directory would have forgotten what it promised, and a value
could be lost.  Hence the directory is prepared once, when the cluster is made, and a server starts
only on a directory that carries its own identity.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec

from wormspace.errors import WrongIdentity
from wormspace.store.engine import Engine

_KEY = b"identity"
_MEMORY_MARK = "started-in-memory"


class Identity(msgspec.Struct, frozen=True):
    """The cluster's id and the server's name in it."""

    cluster: str
    server: str

    def __str__(self) -> str:
        return f"server {self.server!r} of cluster {self.cluster!r}"


async def prepare(engine: Engine, identity: Identity, where: Path) -> None:
    """Give an empty store its identity; a store that has this very one already is left alone.

    Raises:
        WrongIdentity: the store belongs to somebody else.
    """
    held = read(engine)
    if held is None:
        batch = engine.begin()
        batch.put("identity", _KEY, json.dumps(msgspec.structs.asdict(identity)).encode())
        await engine.commit(batch)
    elif held != identity:
        raise WrongIdentity(f"{where} belongs to {held}, not to {identity}")


def require(engine: Engine, identity: Identity, where: Path) -> None:
    """Check that the store is this server's.

    Raises:
        WrongIdentity: it is empty, or somebody else's.
    """
    held = read(engine)
    if held is None:
        raise WrongIdentity(
            f"{where} is empty, but {identity} exists already: starting on an empty directory "
            "would forget what it promised. Restore its directory; if that is lost, leave the "
            "server down (a majority goes on without it). A new cluster's directories are "
            "prepared by `wormspace cluster init`."
        )
    if held != identity:
        raise WrongIdentity(f"{where} belongs to {held}, not to {identity}")


def read(engine: Engine) -> Identity | None:
    """The identity a store carries, if any."""
    raw = engine.view.get("identity", _KEY)
    return Identity(**json.loads(raw)) if raw is not None else None


def start_in_memory(directory: Path, identity: Identity) -> None:
    """Allow a server that keeps its promises in memory to start: once.

    Raises:
        WrongIdentity: it has been started before, and has forgotten what it promised then.
    """
    try:
        fd = os.open(directory / _MEMORY_MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError as e:
        raise WrongIdentity(
            f"{identity} runs with durability 'memory' and has been started before: what it "
            "promised then is forgotten, so it must not come back. Make a new cluster."
        ) from e
    os.close(fd)
