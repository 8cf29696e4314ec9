"""Power cuts: whatever the disk wrote of what it had not been told to write, nothing is lost.

The real store runs on real files.  Every wait for the disk is recorded with what the file held; a
cut then makes an image in which each block of what was not waited for is old or new, at random, and
the store that opens on it must hold all that was acknowledged, and at most the batch under way.
"""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.store.power import Disk

from wormspace.knobs import KNOBS
from wormspace.runtime import disk
from wormspace.server.storage import AcceptorStore
from wormspace.store import blocks, journal, journal_file, lmdb_engine, roots
from wormspace.store.journal_file import JournalFile

BATCHES = 60
SEEDS = range(12)
END = b"\xff" * 40


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
