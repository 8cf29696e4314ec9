"""Power cuts: whatever the disk wrote of what it had not been told to write, nothing is lost.

The real store runs on real files.  Every wait for the disk is recorded with what the file held; a
cut then makes an image in which each block of what was not waited for is old or new, at random, and
the store that opens on it must hold all that was acknowledged, and at most the batch under way.
"""

import asyncio
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from wormspace.server.storage import AcceptorStore
from wormspace.store import aio, blocks, disk, journal, lmdb_engine, roots

BLOCK = 512
BATCHES = 60
SEEDS = range(12)
END = b"\xff" * 40


class Disk:
    """What of a directory's files is certainly on disk, and cuts of the power."""

    def __init__(self, path, monkeypatch, rng):
        self.path = path
        self.rng = rng
        self.durable = {}
        self.on_wait = lambda: None
        real_fsync, real_data = os.fsync, disk.sync_data

        def waits(real):
            def wait(fd):
                name = Path(os.readlink(f"/proc/self/fd/{fd}"))
                content = name.read_bytes() if name.is_file() else None
                real(fd)
                if content is not None and name.parent == self.path:
                    self.on_wait()
                    self.durable[name.name] = content

            return wait

        def keeps(real):
            def write(fd, data, at, flags=0):
                if not flags:
                    return real(fd, data, at, flags)
                name = Path(os.readlink(f"/proc/self/fd/{fd}"))
                new = b"".join(data)
                done = real(fd, data, at, flags)
                self.on_wait()
                old = self.durable.get(name.name, b"")
                self.durable[name.name] = old[:at].ljust(at, b"\0") + new + old[at + len(new) :]
                self.on_wait()
                return done

            return write

        async def write(aio, buffer, size, at):
            """In place of the kernel's: some turns of the loop later, so runs can be repeated."""
            for _ in range(rng.randint(0, 2)):
                await asyncio.sleep(0)
            request = aio._request
            return os.pwritev(request.fd, [memoryview(buffer)[:size]], at, request.rw_flags)

        monkeypatch.setattr(os, "pwritev", keeps(os.pwritev))
        monkeypatch.setattr(aio.Aio, "write", write)
        monkeypatch.setattr(os, "fsync", waits(real_fsync))
        monkeypatch.setattr(journal, "sync_data", waits(real_data))

    def watch(self, engine):
        """LMDB's own writing and waiting."""
        env, outer, commit = engine._env, self, engine._view.commit

        def committing():
            commit()
            outer.on_wait()

        engine._view.commit = committing

        class Env:
            def sync(self, force):
                content = (outer.path / roots.DATA).read_bytes()
                env.sync(force)
                outer.on_wait()
                outer.durable[roots.DATA] = content
                outer.on_wait()

            def __getattr__(self, name):
                return getattr(env, name)

        engine._env = Env()

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


class Turns:
    """A `Committer` that works some turns of the loop later, so that runs can be repeated."""

    def __init__(self, rng, most):
        self.rng = rng
        self.most = most

    async def run(self, work):
        for _ in range(self.rng.randint(0, self.most)):
            await asyncio.sleep(0)
        work()

    def stop(self):
        """Nothing is under way."""


def state(view):
    return {table: dict(view.scan(table, b"", END)) for table in AcceptorStore.tables}


def digest(tables):
    """A name for a state, the same in every process."""
    rows = [(table, sorted(held.items())) for table, held in sorted(tables.items())]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


OPEN = """
import sys
from pathlib import Path
import pytest
import test_power_cut
from test_power_cut import AcceptorStore, digest, state
if sys.argv[1]:
    getattr(test_power_cut, sys.argv[1])(pytest.MonkeyPatch())
for image in map(Path, sys.argv[2:]):
    try:
        engine = AcceptorStore(image)
        print(digest(state(engine.view)), flush=True)
        engine.close()
    except Exception as e:
        print(repr(e), flush=True)
"""


def reopened(images, broken):
    """What a process of its own finds in each: LMDB may not survive a store that is damaged."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    found = []
    while len(found) < len(images):
        command = [sys.executable, "-c", OPEN, broken, *map(str, images[len(found) :])]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
        found += done.stdout.splitlines()
        if done.returncode:
            found.append(f"died with {done.returncode}")
    return found


def change(batch, model, rng, number):
    """Put and delete something; the model says what the tables hold after it."""
    model = {table: dict(rows) for table, rows in model.items()}
    for _ in range(rng.randint(1, 4)):
        table = rng.choice(["rows", "promises", "decided"])
        key = b"%04d" % rng.randrange(200)
        if rng.random() < 0.25:
            batch.delete(table, key)
            model[table].pop(key, None)
        else:
            value = b"%d/" % number + rng.randbytes(rng.choice([3, 100, 900]))
            batch.put(table, key, value)
            model[table][key] = value
    return model


async def violations(tmp_path, monkeypatch, seed, broken="", cuts=80):
    """Run a store, cut the power again and again, and return what went wrong."""
    rng = random.Random(seed)
    path = tmp_path / f"store-{seed}"
    monkeypatch.setattr(lmdb_engine, "CHECKPOINT_BYTES", rng.choice([3_000, 8_000, 20_000]))
    watched = Disk(path, monkeypatch, rng)
    engine = AcceptorStore(path)
    watched.durable[roots.DATA] = (path / roots.DATA).read_bytes()
    watched.watch(engine)
    engine._committer, engine._saver = Turns(rng, 1), Turns(rng, 6)
    states = [state(engine.view)]
    acknowledged, found, images = 0, [], []

    def cut():
        if len(images) < cuts and rng.random() < 0.3:
            least = acknowledged
            image = tmp_path / f"image-{seed}-{len(images)}"
            watched.cut(image)
            images.append((image, least, len(states)))

    watched.on_wait = cut
    for number in range(BATCHES):
        batch = engine.begin()
        states.append(change(batch, states[-1], rng, number))
        await engine.commit(batch)
        acknowledged += 1
        assert state(engine.view) == states[-1]
        cut()
    watched.on_wait = lambda: None
    if engine._saving is not None:
        await engine._saving
    monkeypatch.undo()
    engine.close()
    for now, (_, least, stop) in zip(
        reopened([i for i, _, _ in images], broken), images, strict=True
    ):
        if now not in map(digest, states[least:stop]):
            found.append(f"not one of the states {least} to {stop - 1}: {now}")
    assert images
    return found


def through_the_cache(monkeypatch):
    """As on systems that cannot do without."""
    monkeypatch.setattr(journal._File, "avoid_cache", lambda self: None)


def in_a_thread(monkeypatch):
    """As where the kernel cannot write in the background."""
    monkeypatch.setattr(journal.Journal, "takes", lambda self, size: False)


@pytest.mark.parametrize("way", [through_the_cache, in_a_thread])
async def test_no_way_of_writing_loses_anything(tmp_path, monkeypatch, way):
    for seed in range(2):
        with pytest.MonkeyPatch.context() as other, pytest.MonkeyPatch.context() as watch:
            way(other)
            assert await violations(tmp_path, watch, seed) == []


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path, monkeypatch, seed):
    assert await violations(tmp_path, monkeypatch, seed) == []


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 400))
async def test_no_power_cut_of_many_loses_anything(tmp_path, monkeypatch, seed):
    assert await violations(tmp_path, monkeypatch, seed) == []


def without_roots(monkeypatch):
    monkeypatch.setattr(roots.Roots, "restore", lambda self: None)


def without_waiting_for_the_journal(monkeypatch):
    def write(self, parts, at):
        disk.write_all(self.fd, parts, at)

    monkeypatch.setattr(journal.Journal, "takes", lambda self, size: False)
    monkeypatch.setattr(journal._File, "write", write)


def without_waiting_for_the_kernels_write(monkeypatch):
    monkeypatch.setattr(blocks, "Aio", lambda fd, flags: aio.Aio(fd, 0))


def without_what_the_block_held(monkeypatch):
    """A record's first block loses the records before it."""
    fill = blocks.BlockWriter._fill

    def forgetful(self, parts, at):
        begin, size = fill(self, parts, at)
        self._buffer[: at - begin] = bytes(at - begin)
        return begin, size

    monkeypatch.setattr(blocks.BlockWriter, "_fill", forgetful)


def without_checking_records(monkeypatch):
    monkeypatch.setattr(journal._File, "_crc", lambda self, number, payload: 7)


def without_waiting_for_the_checkpoint(monkeypatch):
    """The roots are saved before what they name is on disk."""

    def hasty(self, number, pages):
        self._roots.save(number, pages)

    monkeypatch.setattr(AcceptorStore, "_bring_to_disk", hasty)


def with_commits_before_the_checkpoint_is_done(monkeypatch):
    """Several commits on top of a checkpoint: pages that it needs are used again."""
    commit = AcceptorStore.commit

    async def eager(self, batch):
        await commit(self, batch)
        self._view.commit()

    monkeypatch.setattr(AcceptorStore, "commit", eager)


@pytest.mark.parametrize(
    "broken",
    [
        without_roots,
        without_waiting_for_the_journal,
        without_waiting_for_the_kernels_write,
        without_what_the_block_held,
        without_checking_records,
        without_waiting_for_the_checkpoint,
        with_commits_before_the_checkpoint_is_done,
    ],
)
async def test_each_rule_is_needed(tmp_path, broken):
    """With a rule broken, some power cut loses something."""
    found = []
    for seed in SEEDS:
        with pytest.MonkeyPatch.context() as rule, pytest.MonkeyPatch.context() as watch:
            broken(rule)
            try:
                found += await violations(tmp_path, watch, seed, broken.__name__)
            except Exception as e:  # noqa: BLE001 - LMDB itself noticed
                found.append(repr(e))
        if found:
            return
    pytest.fail("no power cut did any harm")
