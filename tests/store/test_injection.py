"""Every call of the system fails once, at every moment: nothing acknowledged is lost.

A store is opened on a directory that another one left behind when it was killed, takes batches
through several checkpoints, and is closed; in each run one call fails.  Whatever happens then, what
opens afterwards has all that was acknowledged, and no half of a batch.
"""

import asyncio
import contextlib
import errno
import random
import shutil

import pytest
from injecting import CALLS, LMDB_CALLS, Injected, applies

from wormspace.errors import StoreError, StoreFull
from wormspace.knobs import turned
from wormspace.server.storage import AcceptorStore

END = b"\xff" * 40
TABLES = ("rows", "promises")
SMALL = {
    "store_checkpoint_bytes": 6_000,
    "store_journal_step_bytes": 8192,
    "store_map_bytes": 1 << 18,
    "store_inline_after": 2,
    "store_scrub_rows": 5,
    "store_probe_bytes": 4096,
}
BATCHES = 14


def state(view):
    return {table: dict(view.scan(table, b"", END)) for table in TABLES}


def change(batch, held, rng):
    """Put and delete something; what the tables hold then."""
    held = {table: dict(rows) for table, rows in held.items()}
    for _ in range(rng.randint(1, 3)):
        table = rng.choice(TABLES)
        key = b"%02d" % rng.randrange(40)
        if rng.random() < 0.3:
            batch.delete(table, key)
            held[table].pop(key, None)
        else:
            held[table][key] = rng.randbytes(rng.choice([3, 900, 9_000]))
            batch.put(table, key, held[table][key])
    return held


class Run:
    """What was asked of a store, and what it acknowledged.

    Attributes:
        possible: the states that may be found now: all that was acknowledged, or a batch more.
    """

    def __init__(self, held):
        self.possible = [held]
        self.engine = None

    async def work(self, path, files, batches=BATCHES, seed=1):
        rng = random.Random(seed)
        self.engine = engine = AcceptorStore(path, files=files)
        assert state(engine.view) == self.possible[-1]
        for n in range(batches):
            held = self.possible[0]
            batch = engine.begin()
            after = change(batch, held, rng)
            if seed and n == batches - 3:  # more than the map has
                after["rows"][b"large"] = bytes(3 << 20)
                batch.put("rows", b"large", bytes(3 << 20))
            self.possible = [held, after]
            try:
                await engine.commit(batch)
            except StoreFull:
                self.possible = [held]
            else:
                self.possible = [after]
            assert state(engine.view) == self.possible[0]
            engine.scrub()
            for _ in range(rng.randint(0, 3)):
                await asyncio.sleep(0)
        if engine._saving is not None:
            await engine._saving
        engine._trust.check()

    async def outcome(self, path, files):
        """Work, and close: what went wrong, if it was told."""
        try:
            await self.work(path, files)
        except StoreError as e:
            error = e
        else:
            error = None
        if self.engine is not None:
            if error is not None:
                await self.check_that_it_takes_no_more(files)
            self.engine.close()
        return error

    async def check_that_it_takes_no_more(self, files):
        """A store that has failed goes on failing, though the system is well again."""
        batch = self.engine.begin()
        batch.put("rows", b"later", b"")
        with pytest.raises(StoreError):
            await self.engine.commit(batch)
        assert self.engine.health()


@pytest.fixture
def left_behind(tmp_path):
    """A directory as a killed process left it, with records in both files of the journal."""

    async def fill():
        run = Run({table: {} for table in TABLES})
        files = Injected()
        await run.work(tmp_path / "first", files, seed=0)
        engine = run.engine
        engine._saver.run = lambda work: asyncio.sleep(3600)  # the disk never comes to an end
        rng = random.Random(5)
        held = run.possible[0]
        while not engine._journal.goes_on or engine._journal._current.end < 6000:
            batch = engine.begin()
            held = change(batch, held, rng)
            await engine.commit(batch)
        shutil.copytree(tmp_path / "first", tmp_path / "left")
        engine._saving.cancel()
        return held

    with turned(**SMALL):
        held = asyncio.run(fill())
        yield tmp_path / "left", held


def names_of(path, held):
    """The calls of a run in which none fails."""
    files = Injected()
    shutil.copytree(path, path.parent / "well")
    assert asyncio.run(Run(held).outcome(path.parent / "well", files)) is None
    return files.seen


@pytest.mark.parametrize(
    "how", [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ENOMEM, "short", "late"], ids=str
)
def test_any_call_may_fail_at_any_moment(left_behind, how):
    path, held = left_behind
    names = names_of(path, held)
    moments = [n for n, name in enumerate(names) if applies(how, name)]
    told = 0
    for n in moments:
        copy = path.parent / f"copy-{n}"
        shutil.copytree(path, copy)
        run = Run(held)
        files = Injected(n, how)
        error = asyncio.run(run.outcome(copy, files))
        told += error is not None
        assert how != "short" or error is None, f"call {n}, {names[n]}: {error}"
        again = AcceptorStore(copy)
        now = state(again.view)
        assert now in run.possible, f"call {n}, {names[n]}: after {error!r}"
        again.close()
        shutil.rmtree(copy)
    assert len(moments) > 3
    assert told or how == "short"


def test_a_new_store_that_could_not_be_made_can_be_made_again(tmp_path):
    with turned(**SMALL):
        files = Injected()
        AcceptorStore(tmp_path / "well", files=files).close()
        for n, name in enumerate(files.seen):
            if not applies(errno.EIO, name):
                continue
            path = tmp_path / f"deep-{n}" / "store"
            with contextlib.suppress(StoreError, OSError):
                AcceptorStore(path, files=Injected(n)).close()
            again = AcceptorStore(path)
            assert state(again.view) == {table: {} for table in TABLES}, f"call {n}, {name}"
            again.close()


def test_the_runs_reach_every_call(left_behind):
    path, held = left_behind
    seen = set(names_of(path, held))
    files = Injected()
    with turned(**SMALL):
        AcceptorStore(path.parent / "deep" / "new", files=files).close()
    seen |= set(files.seen)
    # What is left out comes with errors only, and is reached in the runs with them.
    assert set(CALLS) | set(LMDB_CALLS) <= seen | {"truncate", "free_bytes", "reserve"}
