"""Stores for tests of damage: rows whose values are known, and what the disk may do to them."""

from __future__ import annotations

import shutil
from pathlib import Path

from wormspace.server.storage import AcceptorStore
from wormspace.store import roots

END = b"\xff" * 40
ROWS = 300


def value(n):
    return b"<%04d>" % n * 30


async def put(engine, n, new=None):
    batch = engine.begin()
    batch.put("rows", b"%06d" % n, value(n) if new is None else new)
    await engine.commit(batch)


async def filled(path, rows=ROWS, start=0):
    engine = AcceptorStore(path, durability="os")
    for n in range(start, start + rows):
        await put(engine, n)
    return engine


async def checkpointed(engine):
    """Wait until all that was written is a checkpoint."""
    engine._checkpoint()
    if engine._saving is not None:
        await engine._saving


def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "store"))


def edit(path, at, new):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(new)


def spoilt(path, n, flip=3):
    """A bit of a row's value is another one on disk."""
    data = path / roots.DATA
    content = data.read_bytes()
    at = -1
    while (at := content.find(value(n), at + 1)) != -1:
        edit(data, at + flip, bytes([content[at + flip] ^ 4]))


READS = {
    "get": lambda view, key: view.get("rows", key),
    "get_many": lambda view, key: view.get_many("rows", [b"000001", key]),
    "scan": lambda view, key: list(view.scan("rows", key, key + b"\0")),
    "floor": lambda view, key: view.floor("rows", key + b"\0"),
}
