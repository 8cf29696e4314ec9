"""Whose promises a data directory keeps, and on what terms.

A server's promises live in its data directory, so the directory *is* the server: one that comes
back with an empty or somebody else's directory would have forgotten what it promised, and a value
could be lost.  The same happens when the directory is right and the terms have changed: if promises
were kept in memory yesterday, or segments were another partition's, or quorums were counted of
other servers.  So the directory is prepared once, when the cluster is made, and carries all that
safety rests on.  The cluster file is edited by people; a server starts only if it says the same.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from wormspace.errors import NewerFormat, WrongIdentity
from wormspace.malformed import MALFORMED
from wormspace.store.engine import Engine

FORMAT = 1
"""Of the tables that `server.tables` describes, and of the identity itself."""

_KEY = b"identity"
_STARTED = b"started"


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server and its terms.

    Attributes:
        cluster: the cluster's id.
        server: its name in the cluster.
        partition: its place among the cluster's replica sets, from 0.
        partitions: how many replica sets there are; together they say whose segments it has.
        members: the names of its replica set's servers, sorted: quorums are counted of these.
        durability: sync, os or memory: what an answer was worth.
        format: of what is stored.
    """

    cluster: str
    server: str
    partition: int = 0
    partitions: int = 1
    members: tuple[str, ...]
    durability: str = "sync"
    format: int = FORMAT

    def __str__(self) -> str:
        return f"server {self.server!r} of cluster {self.cluster!r}"


class _Format(msgspec.Struct):
    """What every version of the identity says of itself."""

    format: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Identity).decode
_decode_format = msgspec.json.Decoder(_Format).decode


def embedded(durability: str) -> Identity:
    """The identity of a store that is nobody's server."""
    return Identity(
        cluster="embedded", server="embedded", members=("embedded",), durability=durability
    )


async def prepare(engine: Engine, identity: Identity, where: Path) -> None:
    """Give an empty store its identity; a store that has this very one already is left alone.

    Raises:
        WrongIdentity: the store belongs to somebody else, or to the same one on other terms.
        NewerFormat: a newer wormspace prepared it.
    """
    held = read(engine, where)
    if held is None:
        batch = engine.begin()
        batch.put("identity", _KEY, _encode(identity))
        await engine.commit(batch)
    else:
        _compare(held, identity, where)


def require(engine: Engine, identity: Identity, where: Path) -> None:
    """Check that the store is this server's, on these terms.

    Raises:
        WrongIdentity: it is empty, somebody else's, or was prepared on other terms.
        NewerFormat: a newer wormspace prepared it.
    """
    held = read(engine, where)
    if held is None:
        raise WrongIdentity(
            f"{where} is empty, but {identity} exists already: starting on an empty directory "
            "would forget what it promised. Restore its directory; if that is lost, leave the "
            "server down (a majority goes on without it). A new cluster's directories are "
            "prepared by `wormspace cluster init`."
        )
    _compare(held, identity, where)


def read(engine: Engine, where: Path) -> Identity | None:
    """The identity a store carries, if any.

    Raises:
        WrongIdentity: it carries one that cannot be read.
        NewerFormat: a newer wormspace prepared it.
    """
    raw = engine.view.get("identity", _KEY)
    if raw is None:
        return None
    try:
        found = _decode_format(raw).format
        if found > FORMAT:
            raise NewerFormat.of(where, found, FORMAT)
        return _decode(raw)
    except MALFORMED as e:
        raise WrongIdentity(
            f"{where} carries an identity that this wormspace cannot read ({e}): an unreleased "
            "version prepared it, or it is damaged. Do not start on it; read it with the version "
            "that wrote it"
        ) from e


def _compare(held: Identity, wanted: Identity, where: Path) -> None:
    if (held.cluster, held.server) != (wanted.cluster, wanted.server):
        raise WrongIdentity(f"{where} belongs to {held}, not to {wanted}")
    other = [
        f"{field} is {_shown(getattr(held, field))} there and {_shown(getattr(wanted, field))} here"
        for field in Identity.__struct_fields__
        if getattr(held, field) != getattr(wanted, field)
    ]
    if other:
        raise WrongIdentity(
            f"{where} was prepared for {held} on other terms: {'; '.join(other)}. What was "
            "promised on those would be forgotten on these. Put them back; to have others, make a "
            "new one and copy the values"
        )


def _shown(term: object) -> str:
    return ", ".join(term) if isinstance(term, tuple) else str(term)


async def start_in_memory(engine: Engine, identity: Identity) -> None:
    """Allow a server that keeps its promises in memory to start: once.

    Raises:
        WrongIdentity: it has been started before, and has forgotten what it promised then.
    """
    if engine.view.get("identity", _STARTED) is not None:
        raise WrongIdentity(
            f"{identity} runs with durability 'memory' and has been started before: what it "
            "promised then is forgotten, so it must not come back. Make a new cluster."
        )
    batch = engine.begin()
    batch.put("identity", _STARTED, b"")
    await engine.commit(batch)


async def take_back_start(engine: Engine) -> None:
    """It could not listen, so nobody was promised anything: it may start another time."""
    batch = engine.begin()
    batch.delete("identity", _STARTED)
    await engine.commit(batch)
