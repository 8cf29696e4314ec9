"""A disk whose power can be cut, and that rots: what of a store's files is certainly on it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from wormspace.sim.rot import JournalReader, rotten
from wormspace.store import blocks, journal, roots
from wormspace.store.files import SystemFiles

BLOCK = 512


class Disk(SystemFiles):
    """The system, and what of a directory's files is certainly on disk; cuts of the power."""

    def __init__(self, path, rng):
        self.path = path
        self.rng = rng
        self.durable = {}
        self.before = {}
        self.on_wait = lambda: None
        self.time = 0.0
        self.reader = JournalReader()

    def random(self, size):
        return self.rng.randbytes(size)

    def now(self):
        self.time += self.rng.choice([1e-5, 1e-5, 1e-5, 1e-3])
        return self.time

    def sync(self, fd):
        self._wait(fd, super().sync)

    def sync_data(self, fd):
        self._wait(fd, super().sync_data)

    def _wait(self, fd, real):
        name = Path(os.readlink(f"/proc/self/fd/{fd}"))
        content = name.read_bytes() if name.is_file() else None
        real(fd)
        if content is not None and name.parent == self.path:
            self.on_wait()
            self._keep(name.name, content)

    def write(self, fd, parts, at, flags=0):
        if not flags:
            return super().write(fd, parts, at, flags)
        name = Path(os.readlink(f"/proc/self/fd/{fd}"))
        new = b"".join(parts)
        done = super().write(fd, parts, at, flags)
        self.on_wait()
        old = self.durable.get(name.name, b"")
        self._keep(name.name, old[:at].ljust(at, b"\0") + new + old[at + len(new) :])
        self.on_wait()
        return done

    def _keep(self, name, content):
        """This is on disk now; what was there before, a lost write brings back."""
        if content != self.durable.get(name):
            self.before[name] = self.durable.get(name, b"")
            self.durable[name] = content

    def rename(self, old, new):
        super().rename(old, new)
        self._keep(new.name, self.durable.pop(old.name))

    def open_tables(self, path, map_bytes, most):
        return Tables(super().open_tables(path, map_bytes, most), self)

    def worker(self, name):
        return Turns(self.rng, 1 if name.endswith("commit") else 6)

    def cut(self, image):
        """What a power cut now leaves."""
        image.mkdir()
        for name in (roots.DATA, roots.NAME, *journal.NAMES):
            new = (self.path / name).read_bytes()
            old = self.durable.get(name, b"")
            size = self.rng.choice([len(old), len(new)]) if len(new) >= len(old) else len(new)
            likely = self.rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
            content = bytearray()
            for at in range(0, size, BLOCK):
                takes = new if self.rng.random() < likely else old
                content += takes[at : at + BLOCK].ljust(min(BLOCK, size - at), b"\0")
            (image / name).write_bytes(content)

    def rot(self, image):
        """What is found when all has reached the disk, and a synced sector is not what it was.

        Returns:
            What was done; and the number of the last record that is left, if the damage is the
            one that nobody can tell from a torn end.
        """
        image.mkdir()
        names = (roots.DATA, roots.NAME, *journal.NAMES)
        name = self.rng.choice([roots.DATA, *names])
        before = {other: (self.path / other).read_bytes() for other in names}
        content, durable = before[name], self.durable.get(name, b"")
        sectors = [
            at // BLOCK
            for at in range(0, min(len(content), len(durable)), BLOCK)
            if any(content[at : at + BLOCK])
            and content[at : at + BLOCK] == durable[at : at + BLOCK]
        ]
        after = dict(before)
        what = "nothing"
        if sectors:
            n = self.rng.choice(sectors)
            older = self.before.get(name, b"")[n * BLOCK : (n + 1) * BLOCK]
            new = rotten(self.rng, content, n, sectors, [older])
            after[name] = content[: n * BLOCK] + new + content[n * BLOCK + len(new) :]
            what = f"{len(new)} bytes at {n * BLOCK} of {name}"
        for other in names:
            (image / other).write_bytes(after[other])
        return what, self._left(before, after)

    def _left(self, before, after):
        written, other = journal.NAMES
        if first(before[other]) > first(before[written]):
            written, other = other, written
        end = self.reader.end(before[written], before[other])
        now = self.reader.end(after[written], after[other])
        return None if now is None or now == end else now.number


def first(content):
    """The number of the first record of a journal's file; 0 if it has none of this use."""
    at = blocks.BLOCK
    is_there = content[at : at + 8] == content[12:20]
    return int.from_bytes(content[at + 8 : at + 16], "big") if is_there else 0


class Tables:
    """LMDB's environment: its own writing and waiting."""

    def __init__(self, env, disk):
        self._env = env
        self._disk = disk

    def sync(self, force):
        content = (self._disk.path / roots.DATA).read_bytes()
        self._env.sync(force)
        self._disk.on_wait()
        self._disk._keep(roots.DATA, content)
        self._disk.on_wait()

    def begin(self, **how):
        return Transaction(self._env.begin(**how), self._disk)

    def __getattr__(self, name):
        return getattr(self._env, name)


class Transaction:
    """One of LMDB's."""

    def __init__(self, txn, disk):
        self._txn = txn
        self._disk = disk

    def commit(self):
        self._txn.commit()
        self._disk.on_wait()

    def __getattr__(self, name):
        return getattr(self._txn, name)


class Turns:
    """A worker that works some turns of the loop later, so that runs can be repeated."""

    def __init__(self, rng, most):
        self.rng = rng
        self.most = most

    async def run(self, work):
        for _ in range(self.rng.randint(0, self.most)):
            await asyncio.sleep(0)
        work()

    def stop(self):
        """Nothing is under way."""
