"""Damage to the files of a store: refused, or an error for what it hit, and never another value."""

import asyncio
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from wormspace.errors import NewerFormat, StoreDamaged, StoreError
from wormspace.knobs import turned
from wormspace.server.storage import AcceptorStore
from wormspace.store import lmdb_engine, lmdb_tables, pace, pages, roots
from wormspace.store.files import SystemFiles
from wormspace.store.journal import NAMES
from wormspace.store.memory_engine import MemoryEngine

END = b"\xff" * 40
ROWS = 300
FILES = (roots.DATA, roots.NAME, *NAMES)


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store that was killed: most rows in its tables, some in the journal alone."""
    path = tmp_path_factory.mktemp("whole")

    async def make():
        engine = await filled(path / "store")
        await checkpointed(engine)
        for n in range(ROWS, ROWS + 30):
            await put(engine, n)
        shutil.copytree(path / "store", path / "killed")
        engine.close()

    asyncio.run(make())
    return path / "killed"


def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "store"))


def edit(path, at, new):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(new)


def test_a_killed_store_is_whole(whole, tmp_path):
    engine = AcceptorStore(copy(whole, tmp_path))
    assert list(engine.view.scan("rows", b"", END)) == [
        (b"%06d" % n, value(n)) for n in range(ROWS + 30)
    ]
    assert engine.health() == ""
    engine.close()


# ------------------------------------------------------------ rows


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


@pytest.mark.parametrize("read", READS)
def test_a_row_that_rotted_is_an_error_and_never_a_value(whole, tmp_path, read):
    path = copy(whole, tmp_path)
    spoilt(path, 77)
    engine = AcceptorStore(path)
    for view in (engine.view, engine.begin()):
        with pytest.raises(StoreDamaged, match=r"'rows'.*303030303737 is not what was written"):
            READS[read](view, b"000077")
    assert engine.view.get("rows", b"000078") == value(78)
    assert "2 reads refused" in engine.health()
    assert engine.figures()["store_damaged_reads"] == 2
    asyncio.run(put(engine, 1000))  # the others go on
    engine.close()


def test_a_row_under_another_key_is_an_error(whole, tmp_path):
    """A key that rotted, or a page that went to the place of another."""
    path = copy(whole, tmp_path)
    content = (path / roots.DATA).read_bytes()
    at = content.find(b"000077" + value(77))
    edit(path / roots.DATA, at + 5, b"6")
    with pytest.raises(StoreDamaged, match=r"data\.mdb is damaged: .*keys are not in order"):
        AcceptorStore(path)
    with turned(store_check_leaves=0):
        engine = AcceptorStore(path)
    with pytest.raises(StoreDamaged):
        list(engine.view.scan("rows", b"", END))
    engine.close()


async def scrubbed(engine):
    """Walk all tables to their end once more."""
    rounds = engine._scrub.rounds + 2
    while engine._scrub.rounds < rounds and not engine._trust.failed:
        engine.scrub()


async def test_the_scrub_finds_rot_that_nobody_reads(whole, tmp_path, caplog):
    path = copy(whole, tmp_path)
    spoilt(path, 77)
    engine = AcceptorStore(path)
    await scrubbed(engine)
    assert engine.figures()["store_damaged_rows"] == 1
    assert "rows are damaged (1 found by the scrub" in engine.health()
    assert caplog.text.count("303030303737") == 1
    await put(engine, 1000)
    engine.close()


async def test_the_scrub_finds_rows_that_are_gone(whole, tmp_path):
    """A page that was lost: its rows cannot say so, and "nothing is here" is a promise."""
    path = copy(whole, tmp_path)
    engine = AcceptorStore(path)
    await scrubbed(engine)
    assert engine.health() == ""
    with engine.view._txn.cursor(db=engine.view._dbs["rows"]) as cursor:
        cursor.set_key(b"000077")
        cursor.delete()  # as the disk would, unknown to the store
    await scrubbed(engine)
    with pytest.raises(StoreError, match="'rows': rows are missing"):
        await put(engine, 1000)
    for read in READS.values():  # "nothing is here" is not believed any more
        with pytest.raises(StoreDamaged, match="rows are missing"):
            read(engine.view, b"000077")
    assert engine.figures()["store_failed"] == 1
    engine.close()


@pytest.mark.parametrize("saving", [False, True])
async def test_that_rows_are_missing_is_known_to_the_next_process_too(whole, tmp_path, saving):
    """Restarted, it would answer "nothing is here" until the scrub came by again."""
    path = copy(whole, tmp_path)
    engine = AcceptorStore(path)
    with engine.view._txn.cursor(db=engine.view._dbs["rows"]) as cursor:
        cursor.set_key(b"000077")
        cursor.delete()
    await checkpointed(engine)
    if saving:
        await put(engine, 1000)
        engine._checkpoint()
    await scrubbed(engine)
    if saving:
        await asyncio.wait([engine._saving])
        await asyncio.sleep(0)
    killed = shutil.copytree(path, tmp_path / "killed")
    engine.close()
    for left in (path, path, killed):
        with pytest.raises(StoreDamaged, match="'rows': rows are missing"):
            AcceptorStore(left)


async def test_rows_that_go_missing_beside_a_damaged_one_are_found(whole, tmp_path):
    path = copy(whole, tmp_path)
    spoilt(path, 77, flip=len(value(77)) + 3)  # in its checksum: the sum is another one
    engine = AcceptorStore(path)
    await scrubbed(engine)
    await scrubbed(engine)
    assert "1 found by the scrub" in engine.health()
    await put(engine, 77, b"anew")
    await scrubbed(engine)
    assert "1 found by the scrub" in engine.health()
    with engine.view._txn.cursor(db=engine.view._dbs["rows"]) as cursor:
        cursor.set_key(b"000100")
        cursor.delete()
    await scrubbed(engine)
    assert "'rows': rows are missing" in engine.health()
    engine.close()


def misled(path, key):
    """A key in a branch rotted: LMDB looks for a row in the leaf before its own."""
    content = bytearray((path / roots.DATA).read_bytes())
    for at in range(2 * 4096, len(content), 4096):
        if content[at + 10] == 1 and (found := content.find(key, at, at + 4096)) != -1:
            content[found + len(key) - 1] += 1
    (path / roots.DATA).write_bytes(content)


def first_of_a_leaf(path):
    """The first key of some leaf in the midst of the rows."""
    content = (path / roots.DATA).read_bytes()
    branches = [at for at in range(2 * 4096, len(content), 4096) if content[at + 10] == 1]
    keys = {content[n : n + 6] for at in branches for n in range(at, at + 4090)}
    return max(key for key in keys if key.isdigit() and key[-1:] != b"9")


async def test_a_branch_that_rotted_is_refused_and_found_by_the_scrub(whole, tmp_path, monkeypatch):
    path = copy(whole, tmp_path)
    key = first_of_a_leaf(path)
    misled(path, key)
    with pytest.raises(StoreDamaged, match=r"data\.mdb is damaged: .*keys are not in order"):
        AcceptorStore(path)
    monkeypatch.setattr(pages.PageCheck, "run", lambda self: None)  # it rots a moment later
    engine = AcceptorStore(path)
    assert engine.view.get("rows", key) is None  # the harm
    await scrubbed(engine)
    assert f"the row {key.hex()} is not where it belongs" in engine.health()
    engine.close()


async def test_the_scrub_runs_in_a_store_that_is_only_read(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_engine, "SCRUB_PAUSE_S", 0)
    engine = AcceptorStore(copy(whole, tmp_path))
    for _ in range(1000):
        await asyncio.sleep(0.001)
        if engine._scrub.rows:
            break
    assert engine._scrub.rows
    engine.close()


async def test_the_scrub_finds_rows_that_are_older_ones(whole, tmp_path):
    engine = AcceptorStore(copy(whole, tmp_path))
    with engine.view._txn.cursor(db=engine.view._dbs["rows"]) as cursor:
        before = cursor.get(b"000077")
        await put(engine, 77, b"newer")
        cursor.put(b"000077", before)
    assert engine.view.get("rows", b"000077") == value(77)  # whole, though not the last one
    await scrubbed(engine)
    assert "older than the last" in engine.health()
    engine.close()


async def test_the_scrub_is_not_misled_by_what_changes_meanwhile(tmp_path):
    """Puts, overwrites, deletes, checkpoints and restarts, before and behind where it is."""
    rng = random.Random(3)
    with turned(store_scrub_rows=7, store_checkpoint_bytes=5000):
        for _ in range(3):
            engine = AcceptorStore(tmp_path / "store", durability="os")
            for _ in range(150):
                batch = engine.begin()
                for _ in range(rng.randint(1, 5)):
                    key = b"%02d" % rng.randrange(60)
                    if rng.random() < 0.4:
                        batch.delete("rows", key)
                    else:
                        batch.put("rows", key, rng.randbytes(rng.choice([2, 300])))
                await engine.commit(batch)
                engine.scrub()
                if rng.random() < 0.1 and engine._saving is not None:
                    await engine._saving
            assert engine.health() == ""
            assert engine._scrub.rounds > 2
            engine.close()


# ------------------------------------------------------------ files


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_table_file_that_was_cut_is_refused(whole, tmp_path, share):
    path = copy(whole, tmp_path)
    data = path / roots.DATA
    size = data.stat().st_size
    with data.open("r+b") as file:
        file.truncate(int(size * share))
    with pytest.raises(StoreDamaged, match=rf"data\.mdb is cut off.*had {size}"):
        AcceptorStore(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["removed", "emptied", "of another store", "an older copy"])
async def test_a_file_that_is_not_the_last_one_is_refused(tmp_path, name, how):
    with turned(store_checkpoint_bytes=10_000):
        engine = await filled(tmp_path / "store", 200)
        await checkpointed(engine)
        older = Path(shutil.copytree(tmp_path / "store", tmp_path / "older"))
        for n in range(200, 420):
            await put(engine, n)
            if n < 400 and engine._saving is not None:
                await engine._saving
        await checkpointed(engine)
        await put(engine, 500)
        path = Path(shutil.copytree(tmp_path / "store", tmp_path / "killed"))
        written = NAMES[engine._journal._files.index(engine._journal._current)]
        engine.close()
    if name in NAMES and name != written:
        (path / name).unlink()  # the free one
        AcceptorStore(path).close()
        return
    if how == "removed":
        (path / name).unlink()
    elif how == "emptied":
        (path / name).write_bytes(b"")
    elif how == "an older copy":
        shutil.copy(older / name, path / name)
    else:
        other = await filled(tmp_path / "other", 420)
        other.close()
        shutil.copy(tmp_path / "other" / name, path / name)
    with pytest.raises(StoreDamaged, match="What this server promised is lost"):
        AcceptorStore(path)


@pytest.mark.parametrize("checkpoints", [1, 2, 3])
def test_a_store_that_lost_all_since_its_checkpoint_is_opened_again_and_again(
    tmp_path, checkpoints, caplog
):
    """With durability `os`, after a crash of the machine: each opening may be the last for long."""
    path = tmp_path / "store"

    async def write(start, rows):
        return await filled(path, rows, start)

    for n in range(checkpoints):
        asyncio.run(write(n, 1)).close()
    engine = asyncio.run(write(100, 5))
    killed = Path(shutil.copytree(path, tmp_path / "killed"))
    engine.close()
    [(name, at)] = [(n, a) for n in NAMES if (a := (killed / n).read_bytes().find(value(100))) > 0]
    edit(killed / name, at, b"\0")
    for _ in range(3):
        engine = AcceptorStore(killed, durability="os")
        assert [key for key, _ in engine.view.scan("rows", b"", END)] == [
            b"%06d" % n for n in range(checkpoints)
        ]
        engine.close()
    assert caplog.text.count("commits that were durable are lost") == 1


def test_a_store_whose_making_was_interrupted_is_made(tmp_path):
    """Nobody was told of anything: the roots are the last thing that is made."""
    AcceptorStore(tmp_path / "store").close()
    path = tmp_path / "store"
    (path / roots.NAME).unlink()
    with pytest.raises(StoreDamaged):
        AcceptorStore(path)  # this one had been made

    class Dies(SystemFiles):
        def sync(self, fd):
            if Path(f"/proc/self/fd/{fd}").readlink().name == roots.NAME:
                raise OSError(5, "the power goes")
            super().sync(fd)

    with pytest.raises(StoreError):
        AcceptorStore(tmp_path / "new", files=Dies())
    (tmp_path / "new" / roots.NAME).unlink()
    AcceptorStore(tmp_path / "new").close()


# ------------------------------------------------------------ versions


@pytest.mark.parametrize("module", [roots, lmdb_tables])
def test_a_newer_format_is_told_from_damage(tmp_path, module, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(module, "VERSION", 2)
        AcceptorStore(tmp_path / "store").close()
    with pytest.raises(NewerFormat, match=r"format 2.*up to 1: update"):
        AcceptorStore(tmp_path / "store")


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["store-1"])
def test_a_store_that_an_earlier_version_wrote_is_read(tmp_path, name):
    """Made by tests/store/golden/make.py; each format stays readable."""
    shutil.unpack_archive(GOLDEN / f"{name}.tar.gz", tmp_path, filter="data")
    engine = AcceptorStore(tmp_path / name)
    assert list(engine.view.scan("rows", b"", END)) == [
        (b"%06d" % n, value(n)) for n in range(40) if n != 7
    ]
    assert engine.view.get("promises", b"p") == b"\0\xff"
    engine.close()


# ------------------------------------------------------------ cancellation, warnings, limits


async def test_a_commit_that_is_cancelled_half_way_ends_the_store(tmp_path):
    """Whether its record is on disk is not known: a later batch must not go over it."""
    engine = await filled(tmp_path / "store", 3)
    with turned(store_inline_bytes=0):
        task = asyncio.create_task(put(engine, 3))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    with pytest.raises(StoreError, match="cancelled half-way"):
        await put(engine, 4)
    engine.close()
    again = AcceptorStore(tmp_path / "store")
    assert len(list(again.view.scan("rows", b"", END))) in (3, 4)
    again.close()


async def test_a_bad_key_is_refused_before_the_journal_has_it(tmp_path):
    engine = AcceptorStore(tmp_path / "store")
    for table, key in [("rows", b""), ("rows", bytes(511)), ("no such", b"k")]:
        batch = engine.begin()
        batch.put(table, key, b"v")
        with pytest.raises(ValueError, match=r"key|table"):
            await engine.commit(batch)
    await put(engine, 1)
    engine.close()


def test_sync_on_a_disk_in_memory_is_told(tmp_path, caplog):
    class InMemory(SystemFiles):
        def kind(self, path):
            return "tmpfs"

    AcceptorStore(tmp_path / "a", files=InMemory()).close()
    assert "is in memory (tmpfs)" in caplog.text
    caplog.clear()
    AcceptorStore(tmp_path / "b", durability="os", files=InMemory()).close()
    AcceptorStore(tmp_path / "c").close()
    assert not caplog.text
    assert SystemFiles().kind(Path("/proc")) == "proc"


MANY = """
import resource, sys
from pathlib import Path
from wormspace.server.storage import AcceptorStore
GiB = 1 << 30
resource.setrlimit(resource.RLIMIT_AS, (512 * GiB, 512 * GiB))
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
stores = [AcceptorStore(Path(sys.argv[1]) / str(n), durability="os") for n in range(200)]
print(len(stores))
"""


def test_hundreds_of_stores_open_in_one_process_with_an_address_limit(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MANY, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stdout == "200\n", done.stderr


async def test_without_addresses_the_store_fails_and_loses_nothing(tmp_path):
    class Scarce(SystemFiles):
        def check_addresses(self, size):
            raise OSError(12, "Cannot allocate memory")

    with turned(store_map_bytes=1 << 18):
        engine = AcceptorStore(tmp_path / "store", durability="os", files=Scarce())
        for n in range(20):
            await put(engine, n, bytes(5000))
        with pytest.raises(StoreError, match=r"ulimit -v"):
            await put(engine, 20, bytes(1 << 20))
        assert engine.health()
        engine.close()
        again = AcceptorStore(tmp_path / "store")
        assert len(list(again.view.scan("rows", b"", END))) in (20, 21)
        again.close()


def test_new_directories_above_a_store_are_on_disk(tmp_path):
    class Watching(SystemFiles):
        def __init__(self):
            self.synced = []

        def sync(self, fd):
            self.synced.append(Path(f"/proc/self/fd/{fd}").readlink())
            super().sync(fd)

    files = Watching()
    AcceptorStore(tmp_path / "a" / "b" / "c", files=files).close()
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"} <= {
        *files.synced
    }


async def test_the_memory_engine_is_always_well():
    assert MemoryEngine().health() == ""


def test_tables_of_another_moment_than_the_roots_are_refused(whole, tmp_path):
    path = copy(whole, tmp_path)
    held = roots.Roots(path)
    held.save(msgspec.structs.replace(held.saved, number=held.saved.number + 1))
    held.close()
    with pytest.raises(StoreDamaged, match="not of the same moment"):
        AcceptorStore(path)


REOPEN = """
import sys
from pathlib import Path
from wormspace.server.storage import AcceptorStore
engine = AcceptorStore(Path(sys.argv[1]))
while engine._scrub.rounds < 2 and not engine.health():
    engine.scrub()
print(engine.health() or "well")
"""


@pytest.mark.parametrize("rounds", [2, 3, 5])
def test_an_older_table_file_of_the_same_size_is_never_believed(tmp_path, rounds):
    """LMDB may end the process when it meets pages of another moment; with a message."""
    path = tmp_path / "killed"

    async def make():
        engine = await filled(tmp_path / "store", 200)
        await checkpointed(engine)
        older = (tmp_path / "store" / roots.DATA).read_bytes()
        for n in range(rounds):
            for key in range(200):
                await put(engine, key, b"%d" % n * 100)
            await checkpointed(engine)
        shutil.copytree(tmp_path / "store", path)
        engine.close()
        return older

    older = asyncio.run(make())
    size = (path / roots.DATA).stat().st_size
    (path / roots.DATA).write_bytes(older.ljust(size, b"\0"))
    done = subprocess.run(
        [sys.executable, "-c", REOPEN, path], capture_output=True, text=True, check=False
    )
    assert done.stdout != "well\n"
    assert done.stderr or "missing" in done.stdout or "damaged" in done.stdout


async def test_the_loop_waits_for_no_more_than_a_record(tmp_path, monkeypatch):
    """To make a file of the journal larger is the thread's, however fast the disk is."""
    monkeypatch.setattr(pace, "FAST_S", 1e9)
    waited = []

    class Watched(SystemFiles):
        def sync(self, fd):
            waited.append(threading.current_thread())
            super().sync(fd)

    with turned(store_journal_step_bytes=4096, store_inline_after=1):
        engine = AcceptorStore(tmp_path / "store", files=Watched())
        waited.clear()
        for n in range(200):
            await put(engine, n)
    assert len(waited) > 5
    assert threading.main_thread() not in waited
    engine.close()
