"""The scrub finds what rotted or is gone, also where nobody reads, and then nothing is believed."""

import asyncio
import random
import shutil

import pytest
from tests.store.rotting import READS, checkpointed, copy, put, spoilt, value

from wormspace.errors import StoreDamaged, StoreError
from wormspace.knobs import turned
from wormspace.server.storage import AcceptorStore
from wormspace.store import lmdb_engine, pages, roots


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
    assert engine.metrics()["store_damaged_rows"] == 1
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
    assert engine.metrics()["store_failed"] == 1
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
