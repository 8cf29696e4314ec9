"""What a store waits for on its disk, and who waits."""

import asyncio
import threading
from pathlib import Path

import pytest
from tests.store.rotting import END, filled, put

from wormspace.errors import StoreError
from wormspace.knobs import turned
from wormspace.server.storage import AcceptorStore
from wormspace.store import pace
from wormspace.store.files import SystemFiles


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
