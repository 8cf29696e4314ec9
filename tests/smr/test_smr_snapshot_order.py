"""The order in which a snapshot that is kept in a directory comes to the disk."""

import asyncio
import os
from pathlib import Path

from wormspace.smr.stores import LocalSnapshots
from wormspace.space import Address


def test_a_snapshot_is_on_disk_before_it_has_its_name_and_its_name_before_it_counts(
    tmp_path, monkeypatch
):
    steps, names = [], {}
    fsync, open_, replace = os.fsync, os.open, Path.replace

    def opened(path, *arguments, **options):
        fd = open_(path, *arguments, **options)
        names[fd] = Path(path)
        return fd

    def synced(fd):
        steps.append("directory" if names.get(fd) == tmp_path else "file")
        fsync(fd)

    def renamed(path, target):
        steps.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)

    async def pieces():
        yield b"piece"

    asyncio.run(LocalSnapshots(tmp_path).save("it", Address(1, 0), pieces()))
    assert steps == ["file", "name", "directory"]
