"""The store engines, against a dictionary: batches are all or nothing, views see what is done."""

import asyncio
import contextlib
import errno
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wormspace.errors import StoreError, StoreFull, StoreLocked
from wormspace.knobs import KNOBS, least, turned
from wormspace.server.storage import AcceptorStore
from wormspace.store.blocks import BLOCK
from wormspace.store.files import SystemFiles
from wormspace.store.lmdb_tables import Tables, map_bytes_for
from wormspace.store.memory_engine import MemoryEngine
from wormspace.store.room import Room
from wormspace.store.roots import Roots

TABLES = ["rows", "promises", "spaces"]
END = b"\xff" * 40

tables = st.sampled_from(TABLES)
keys = st.binary(min_size=1, max_size=3)
values = st.binary(max_size=6)
changes = st.one_of(
    st.tuples(st.just("put"), tables, keys, values),
    st.tuples(st.just("delete"), tables, keys),
    st.tuples(st.just("many"), tables, st.lists(st.tuples(keys, values), max_size=4)),
)
batches = st.lists(st.tuples(st.lists(changes, max_size=6), st.booleans()), max_size=6)


def make(kind, path):
    return MemoryEngine() if kind == "memory" else AcceptorStore(path, durability="os")


@pytest.fixture(params=["memory", "lmdb"])
def engine(request, tmp_path):
    engine = make(request.param, tmp_path / "store")
    yield engine
    engine.close()


def apply(batch, model, change):
    kind, table, *rest = change
    if kind == "put":
        batch.put(table, *rest)
        model[table][rest[0]] = rest[1]
    elif kind == "delete":
        batch.delete(table, rest[0])
        model[table].pop(rest[0], None)
    else:
        batch.put_many(table, rest[0])
        model[table].update(rest[0])


def check(view, model, probes):
    for table in TABLES:
        held = sorted(model[table].items())
        assert list(view.scan(table, b"", END)) == held
        assert view.get_many(table, probes) == [model[table].get(k) for k in probes]
        for probe in probes:
            assert view.get(table, probe) == model[table].get(probe)
            below = [item for item in held if item[0] <= probe]
            assert view.floor(table, probe) == (below[-1] if below else None)
            assert list(view.scan(table, probe, END)) == [i for i in held if i[0] >= probe]
            assert list(view.scan(table, b"", probe)) == [i for i in held if i[0] < probe]


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
@given(batches, st.lists(keys, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_an_engine_is_a_dictionary_with_batches(kind, done, probes):
    async def run(path):
        engine = make(kind, path)
        model = {table: {} for table in TABLES}
        for batch_changes, commit in done:
            batch = engine.begin()
            draft = {table: dict(rows) for table, rows in model.items()}
            for change in batch_changes:
                apply(batch, draft, change)
            check(batch, draft, probes)
            if commit:
                await engine.commit(batch)
                model = draft
            else:
                batch.abort()
            check(engine.view, model, probes)
        engine.close()
        if kind == "lmdb":
            again = make(kind, path)
            check(again.view, model, probes)
            again.close()

    with tempfile.TemporaryDirectory() as path:
        asyncio.run(run(Path(path)))


async def test_a_scan_sees_the_state_it_began_in(engine):
    batch = engine.begin()
    batch.put_many("rows", [(b"a", b"1"), (b"b", b"2")])
    await engine.commit(batch)
    assert list(engine.view.scan("rows", b"", END)) == [(b"a", b"1"), (b"b", b"2")]
    assert list(engine.view.scan("rows", b"b", b"b")) == []
    assert list(engine.view.scan("promises", b"", END)) == []


async def test_metrics_tell_of_the_size(engine):
    batch = engine.begin()
    batch.put("rows", b"k", bytes(10_000))
    await engine.commit(batch)
    assert engine.metrics()["store_bytes"] >= 10_000


async def test_a_view_does_not_see_a_commit_under_way(tmp_path):
    """What a reader is told must be durable: a server may die with a commit half done."""
    engine = AcceptorStore(tmp_path / "store")
    batch = engine.begin()
    batch.put("rows", b"k", b"v")
    committing = asyncio.ensure_future(engine.commit(batch))
    assert engine.view.get("rows", b"k") is None
    await committing
    assert engine.view.get("rows", b"k") == b"v"
    engine.close()


async def test_one_process_opens_a_store_once(tmp_path):
    engine = AcceptorStore(tmp_path / "store")
    with pytest.raises(StoreLocked, match="open already, in another process or in this one"):
        AcceptorStore(tmp_path / "store")
    engine.close()
    AcceptorStore(tmp_path / "store").close()


OPEN = "import sys; from pathlib import Path; from wormspace.server.storage import AcceptorStore\n"


@pytest.mark.parametrize("deleted", [False, True])
def test_another_process_finds_the_store_locked_until_the_first_one_dies(tmp_path, deleted):
    """Also if somebody takes the file for a stale one and deletes it."""
    program = OPEN + "e = AcceptorStore(Path(sys.argv[1])); print('open', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "store"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"open\n"
        if deleted:
            (tmp_path / "store" / "lock").unlink()
        with pytest.raises(StoreLocked):
            AcceptorStore(tmp_path / "store")
    finally:
        holder.kill()
        holder.communicate()
    AcceptorStore(tmp_path / "store").close()


@pytest.mark.parametrize("junk", [b"", b"not a store", bytes(8192), b"\xff" * 100_000])
def test_a_store_that_cannot_be_read_is_not_taken_for_an_empty_one(junk, tmp_path):
    (tmp_path / "data.mdb").write_bytes(junk)
    with pytest.raises(StoreError):
        AcceptorStore(tmp_path)
    assert (tmp_path / "data.mdb").read_bytes() == junk


# ---------------------------------------------------------------------------- checkpoints


async def put(engine, key, value=b"v"):
    batch = engine.begin()
    batch.put("rows", key, value)
    await engine.commit(batch)


async def fill(engine, rows, size=1000):
    for i in range(rows):
        await put(engine, b"%06d" % i, bytes(size))


async def fill_until(error, engine, size=1000):
    """Write until it fails; returns how many rows there are."""
    written = 0
    with contextlib.suppress(error):
        while True:
            await put(engine, b"%06d" % written, bytes(size))
            written += 1
            await asyncio.sleep(0.001)
    return written


def rows(engine):
    return [key for key, _ in engine.view.scan("rows", b"", END)]


async def test_the_journal_stays_small_however_much_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(KNOBS, "store_checkpoint_bytes", 1 << 18)
    engine = AcceptorStore(tmp_path, durability="os")
    for round_ in range(5):
        await fill(engine, 500 + round_, 2000)
        await asyncio.sleep(0.01)
    assert engine.metrics()["journal_bytes"] <= 4 << 20
    engine.close()


async def test_a_batch_that_changes_nothing_does_not_wait_for_the_disk(tmp_path):
    engine = AcceptorStore(tmp_path)
    batch = engine.begin()
    batch.put_many("rows", [])
    await engine.commit(batch)
    assert engine.metrics()["store_commits"] == 0
    engine.close()


async def test_a_store_that_grows_is_mapped_ahead_of_it(tmp_path, monkeypatch):
    """Else a commit would find the map full, and read the journal once more."""
    again = []
    monkeypatch.setattr(AcceptorStore, "_begin_again", lambda self: again.append(self))
    with turned(store_map_bytes=1 << 18, store_checkpoint_bytes=20_000):
        engine = AcceptorStore(tmp_path / "store", durability="os")
        for i in range(60):
            await put(engine, b"%d" % i, bytes(10_000))
            if engine._saving is not None:
                await engine._saving
        assert engine.view.map_bytes > 1 << 19
        engine.close()
    assert not again


async def test_a_batch_that_finds_no_place_in_the_map_makes_it_grow(tmp_path, monkeypatch):
    """Whenever the map is full: in a batch, at a checkpoint, when the journal is read."""
    monkeypatch.setattr(KNOBS, "store_map_bytes", 1 << 18)
    engine = AcceptorStore(tmp_path / "store")
    await put(engine, b"before")
    await fill(engine, 40, 100_000)
    assert len(rows(engine)) == 41
    assert engine.view.map_bytes >= 4_000_000
    shutil.copytree(tmp_path / "store", tmp_path / "killed")
    again = AcceptorStore(tmp_path / "killed")
    assert rows(again) == rows(engine)
    again.close()
    again = AcceptorStore(tmp_path / "killed")  # nothing is left to be read
    assert again.view.map_bytes == map_bytes_for(again._roots.saved.data_bytes)
    again.close()
    engine.close()


@given(batches)
@settings(max_examples=25, deadline=None)
def test_every_knob_may_be_at_its_least(done):
    """Each batch a checkpoint, each look a scrub, the map too small for anything."""

    async def run(path):
        model = {table: {} for table in TABLES}
        for round_ in range(2):
            engine = make("lmdb", path)
            check(engine.view, model, [b"x"])
            for batch_changes, _ in done:
                batch = engine.begin()
                for change in batch_changes:
                    apply(batch, model, change)
                batch.put("rows", b"more", bytes(200_000 * round_))
                model["rows"][b"more"] = bytes(200_000 * round_)
                await engine.commit(batch)
                engine.scrub()
                await asyncio.sleep(0)
            check(engine.view, model, [b"x"])
            assert engine.health() == ""
            engine.close()

    with tempfile.TemporaryDirectory() as path, turned(**least()):
        asyncio.run(run(Path(path)))


async def test_large_values_are_brought_to_disk_sooner_than_small_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(AcceptorStore, "_draw_enough", lambda self: 160_000)
    small, large = AcceptorStore(tmp_path / "small"), AcceptorStore(tmp_path / "large")
    real = Tables.commit
    checkpoints = []

    def commit(self, number, salt):
        checkpoints.append(small if self is small.view else large)
        real(self, number, salt)

    monkeypatch.setattr(Tables, "commit", commit)
    for n in range(10):
        batch = small.begin()
        batch.put_many("rows", [(b"%02d-%03d" % (n, i), bytes(90)) for i in range(100)])
        await small.commit(batch)
        batch = large.begin()
        batch.put("rows", b"%02d" % n, bytes(10_000))
        await large.commit(batch)
        if large._saving is not None:
            await large._saving
    assert checkpoints.count(small) == 0
    assert checkpoints.count(large) == 5
    small.close()
    large.close()


def test_the_journal_grows_to_between_half_and_all_of_what_is_worth_a_checkpoint(tmp_path):
    drawn = []

    class Dice(SystemFiles):
        def random(self, size):
            return super().random(size) if size > 1 else bytes([drawn.pop()])

    drawn.append(0)
    engine = AcceptorStore(tmp_path, files=Dice())
    with turned(store_checkpoint_bytes=5120):
        for dice, enough in ((0, 5120), (128, 3840), (255, 2570)):
            drawn.append(dice)
            assert engine._draw_enough() == enough
    engine.close()


async def test_a_map_that_is_too_small_for_the_last_checkpoint_grows(tmp_path, monkeypatch, caplog):
    engine = AcceptorStore(tmp_path)
    await fill(engine, 5)
    before, real, tried = engine._tables.map_bytes, Tables.commit, []

    def once(self, number, salt):
        tried.append(number)
        if len(tried) == 1:
            self._txn.abort()
            raise lmdb.MapFullError("no place")
        real(self, number, salt)

    monkeypatch.setattr(Tables, "commit", once)
    engine.close()
    assert len(tried) == 2
    assert engine._tables.map_bytes == 2 * before
    assert caplog.records == []
    again = AcceptorStore(tmp_path)
    assert len(rows(again)) == 5
    assert again._roots.saved.number == tried[1]
    again.close()


@pytest.mark.parametrize("error", [lmdb.DiskError("no room"), OSError(errno.ENOSPC, "no room")])
async def test_a_checkpoint_without_room_loses_nothing_and_is_made_later(
    tmp_path, monkeypatch, error
):
    monkeypatch.setattr(AcceptorStore, "_draw_enough", lambda self: 10_000)
    engine = AcceptorStore(tmp_path)
    real = Tables.commit

    def no_room(self, number, salt):
        self._txn.abort()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Tables, "commit", no_room)
        patch.setattr(Room, "is_there", lambda self: False)
        written = await fill_until(StoreFull, engine)
        assert written > 5
        assert len(rows(engine)) == written
        batch = engine.begin()
        batch.delete("rows", b"000000")  # what makes room is taken
        await engine.commit(batch)
    assert Tables.commit is real
    await put(engine, b"later")
    assert len(rows(engine)) == written
    engine.close()
    again = AcceptorStore(tmp_path)
    assert len(rows(again)) == written
    again.close()


async def test_closing_during_a_checkpoint_leaves_no_task(tmp_path):
    engine = AcceptorStore(tmp_path)
    batch = engine.begin()
    batch.put("rows", b"k", b"v")
    await engine.commit(batch)
    engine._checkpoint()
    saving = engine._saving
    engine.close()
    await asyncio.wait([saving], timeout=60)
    assert saving.done()


async def test_after_a_graceful_stop_there_is_nothing_to_read(tmp_path, monkeypatch):
    """Also if it comes at the end of a checkpoint, when the free file is not prepared yet."""
    engine = AcceptorStore(tmp_path)
    monkeypatch.setattr(engine, "_prepare", lambda: None)
    for n in range(4):
        batch = engine.begin()
        batch.put("rows", b"k%d" % n, b"v")
        await engine.commit(batch)
        if n == 1:
            engine._checkpoint()
            await engine._saving
    engine.close()
    engine = AcceptorStore(tmp_path)
    assert engine._journal.size == BLOCK
    assert len(list(engine.view.scan("rows", b"", b"\xff"))) == 4
    engine.close()


async def test_a_disk_that_fails_at_a_checkpoint_is_trusted_no_more(tmp_path, monkeypatch):
    """Trying again would prove nothing; what the checkpoint before and the journal hold stands."""
    monkeypatch.setattr(KNOBS, "store_checkpoint_bytes", 10_000)

    def failing(self, checkpoint):
        raise OSError(errno.EIO, "input/output error")

    engine = AcceptorStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Roots, "save", failing)
        written = await fill_until(StoreError, engine)
        engine.close()
    again = AcceptorStore(tmp_path)
    assert len(rows(again)) == written
    again.close()


@pytest.mark.parametrize("missing", ["roots", "data.mdb", "journal.0"])
async def test_a_directory_with_a_file_missing_is_refused(tmp_path, missing, monkeypatch):
    monkeypatch.setattr(KNOBS, "store_checkpoint_bytes", 10_000)
    engine = AcceptorStore(tmp_path)
    await fill(engine, 8)
    engine.close()
    (tmp_path / missing).unlink()
    if missing == "journal.0":
        (tmp_path / "journal.1").unlink()
    with pytest.raises(StoreError, match="missing"):
        AcceptorStore(tmp_path)
