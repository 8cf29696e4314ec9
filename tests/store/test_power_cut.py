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

from wormspace.knobs import KNOBS
from wormspace.server.storage import AcceptorStore
from wormspace.sim.rot import JournalReader, rotten
from wormspace.store import blocks, disk, journal, journal_file, lmdb_engine, roots
from wormspace.store.files import SystemFiles
from wormspace.store.journal_file import JournalFile

BLOCK = 512
BATCHES = 60
SEEDS = range(12)
END = b"\xff" * 40


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
        while not engine.health() and engine._scrub.rounds < 2:
            engine.scrub()
        print(engine.health() or digest(state(engine.view)), flush=True)
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
    monkeypatch.setattr(KNOBS, "store_checkpoint_bytes", rng.choice([3_000, 8_000, 20_000]))
    monkeypatch.setattr(KNOBS, "store_map_bytes", rng.choice([1 << 18, 64 << 20]))
    monkeypatch.setattr(KNOBS, "store_inline_after", rng.choice([0, 3]))
    watched = Disk(path, rng)
    engine = AcceptorStore(path, files=watched)
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


async def rotted(tmp_path, monkeypatch, seed, most=60):
    """Run a store and let it rot: the states of its tables, and what `Disk.rot` made of each."""
    rng = random.Random(seed)
    path = tmp_path / f"store-{seed}"
    monkeypatch.setattr(KNOBS, "store_checkpoint_bytes", rng.choice([8_000, 20_000]))
    monkeypatch.setattr(lmdb_engine, "SCRUB_PAUSE_S", 1e9)  # the test has the time in its hands
    watched = Disk(path, rng)
    engine = AcceptorStore(path, files=watched)
    states, images = [state(engine.view)], []
    for number in range(BATCHES):
        batch = engine.begin()
        states.append(change(batch, states[-1], rng, number))
        await engine.commit(batch)
        if rng.random() < 0.3:
            engine._scrub_some()
        if rng.random() < most / BATCHES:
            image = tmp_path / f"rotten-{seed}-{number}"
            images.append((image, number + 1, *watched.rot(image)))
    if engine._saving is not None:
        await engine._saving
    monkeypatch.undo()
    engine.close()
    return states, images


async def silent(tmp_path, monkeypatch, seed):
    """Run a store and let it rot; what nobody was told of, and how often somebody was."""
    states, images = await rotted(tmp_path, monkeypatch, seed)
    found, told = [], 0
    for now, (_, number, what, left) in zip(
        reopened([image for image, *_ in images], ""), images, strict=True
    ):
        allowed = [states[number], states[number if left is None else left]]
        if now in map(digest, allowed):
            continue
        told += 1
        if now.startswith("died"):
            found.append(f"{what}: {now}")
        if len(now) == len(digest({})):
            found.append(f"{what}: the state is another one")
    return found, told


async def test_a_run_is_repeated_from_its_seed(tmp_path):
    runs = []
    for again in ("one", "two"):
        (tmp_path / again).mkdir()
        with pytest.MonkeyPatch.context() as watch:
            _, images = await rotted(tmp_path / again, watch, 116)
        runs.append(
            [
                (
                    what,
                    left,
                    *(hashlib.sha256(f.read_bytes()).digest() for f in sorted(i.iterdir())),
                )
                for i, _, what, left in images
            ]
        )
    assert runs[0] == runs[1]


@pytest.mark.parametrize("seed", range(4))
async def test_what_rotted_is_refused_or_told_and_never_believed(tmp_path, monkeypatch, seed):
    """A flipped bit, a sector of zeros, one that went elsewhere, a write that was lost."""
    found, told = await silent(tmp_path, monkeypatch, seed)
    assert found == []
    assert told > 3


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 250))
async def test_no_rot_of_much_is_believed(tmp_path, monkeypatch, seed):
    found, _ = await silent(tmp_path, monkeypatch, seed)
    assert found == []


def through_the_cache(monkeypatch):
    """As on systems that cannot do without."""
    monkeypatch.setattr(JournalFile, "avoid_cache", lambda self: None)


async def test_writing_through_the_cache_loses_nothing(tmp_path):
    for seed in range(2):
        with pytest.MonkeyPatch.context() as other, pytest.MonkeyPatch.context() as watch:
            through_the_cache(other)
            assert await violations(tmp_path, watch, seed) == []


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path, monkeypatch, seed):
    assert await violations(tmp_path, monkeypatch, seed) == []


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 400))
async def test_no_power_cut_of_many_loses_anything(tmp_path, monkeypatch, seed):
    assert await violations(tmp_path, monkeypatch, seed) == []


def without_roots(monkeypatch):
    monkeypatch.setattr(roots.Roots, "restore", lambda self, checkpoint: None)


def without_waiting_for_the_journal(monkeypatch):
    write = JournalFile._write
    monkeypatch.setattr(JournalFile, "_write", lambda self, parts, sync: write(self, parts, False))


def without_waiting_past_the_cache(monkeypatch):
    """What is written past the cache is in the disk's own memory."""
    monkeypatch.setattr(blocks, "DSYNC", os.RWF_HIPRI)
    write = Disk.write

    def hasty(self, fd, parts, at, flags=0):
        return write(self, fd, parts, at, 0 if flags == os.RWF_HIPRI else flags)

    monkeypatch.setattr(Disk, "write", hasty)


def without_what_the_block_held(monkeypatch):
    """A record's first block loses the records before it."""
    fill = blocks.BlockWriter._fill

    def forgetful(self, parts, at):
        begin, size = fill(self, parts, at)
        self._buffer[: at - begin] = bytes(at - begin)
        return begin, size

    monkeypatch.setattr(blocks.BlockWriter, "_fill", forgetful)


def without_checking_records(monkeypatch):
    monkeypatch.setattr(journal_file, "checksum", lambda content, seed=0: 7)


def without_naming_the_next_file(monkeypatch):
    """A file that is left does not say where the journal goes on."""
    switch = journal.Journal.switch

    def silent(self):
        switch(self)
        self._unclosed = None

    monkeypatch.setattr(journal.Journal, "switch", silent)


def without_preparing(monkeypatch):
    """The header of the file in which the journal goes on is not waited for."""
    monkeypatch.setattr(journal_file, "write_durably", disk.write_all)


def without_waiting_for_the_checkpoint(monkeypatch):
    """The roots are saved before what they name is on disk."""

    def hasty(self, checkpoint):
        self._roots.save(checkpoint)

    monkeypatch.setattr(AcceptorStore, "_bring_to_disk", hasty)


def with_commits_before_the_checkpoint_is_done(monkeypatch):
    """Several commits on top of a checkpoint: pages that it needs are used again."""
    commit = AcceptorStore.commit

    async def eager(self, batch):
        await commit(self, batch)
        saved = self._tables.committed
        self._tables.commit(saved.number, saved.salt)
        self._tables.begin()

    monkeypatch.setattr(AcceptorStore, "commit", eager)


@pytest.mark.parametrize(
    "broken",
    [
        without_roots,
        without_waiting_for_the_journal,
        without_waiting_past_the_cache,
        without_what_the_block_held,
        without_checking_records,
        without_naming_the_next_file,
        without_preparing,
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
