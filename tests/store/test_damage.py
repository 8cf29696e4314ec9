"""Damage to the files of a store: refused, or an error for what it hit, and never another value."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.store.rotting import (
    END,
    READS,
    ROWS,
    checkpointed,
    copy,
    edit,
    filled,
    put,
    spoilt,
    value,
)

from wormspace.errors import StoreDamaged, StoreError
from wormspace.knobs import turned
from wormspace.server.storage import AcceptorStore
from wormspace.store import roots
from wormspace.store.files import SystemFiles
from wormspace.store.journal import NAMES

FILES = (roots.DATA, roots.NAME, *NAMES)


def test_a_killed_store_is_whole(whole, tmp_path):
    engine = AcceptorStore(copy(whole, tmp_path))
    assert list(engine.view.scan("rows", b"", END)) == [
        (b"%06d" % n, value(n)) for n in range(ROWS + 30)
    ]
    assert engine.health() == ""
    engine.close()


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
    assert engine.metrics()["store_damaged_reads"] == 2
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
            if Path(f"/proc/self/fd/{fd}").readlink().name == roots.UNFINISHED:
                raise OSError(5, "the power goes")
            super().sync(fd)

    with pytest.raises(StoreError):
        AcceptorStore(tmp_path / "new", files=Dies())
    AcceptorStore(tmp_path / "new").close()


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
