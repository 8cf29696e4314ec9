"""A store that was closed says so, touches nothing, and is never taken for a damaged one."""

import asyncio
import os
import shutil

import lmdb
import pytest
from tests.server.nodes import B1, Port, settled

from wormspace.errors import Closed, StoreDamaged, StoreError
from wormspace.knobs import KNOBS, turned
from wormspace.paxos.messages import Decided, Read, Write
from wormspace.server.node import Node
from wormspace.server.storage import AcceptorStore
from wormspace.store.files import SystemFiles
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import STOPPING, Spaces, Status

END = b"\xff" * 40


@pytest.fixture(params=["memory", "lmdb"])
def closed(request, tmp_path):
    """A store that had a row, and a batch that was begun before it was closed."""
    engine = MemoryEngine() if request.param == "memory" else AcceptorStore(tmp_path / "store")

    async def fill():
        batch = engine.begin()
        batch.put("rows", b"key", b"value")
        await engine.commit(batch)

    asyncio.run(fill())
    late = engine.begin()
    engine.close()
    return engine, late


def test_reads_of_a_closed_store_say_that_it_is_closed(closed):
    engine, _ = closed
    view = engine.view
    for read in (
        lambda: view.get("rows", b"key"),
        lambda: view.get_many("rows", [b"key", b"other"]),
        lambda: view.get_many("rows", [b"other"]),
        lambda: list(view.scan("rows", b"", END)),
        lambda: view.floor("rows", b"key"),
        lambda: view.get("rows", b"nothing"),
        engine.begin,
    ):
        with pytest.raises(Closed, match="closed"):
            read()
    assert engine.health() == ""
    assert engine.metrics()


def test_a_late_batch_says_that_the_store_is_closed(closed):
    engine, late = closed
    with pytest.raises(Closed, match="closed"):
        asyncio.run(engine.commit(late))


def test_a_batch_after_the_end_goes_to_no_file_that_was_opened_since(tmp_path):
    """The system gives out descriptors again: a late write would go to somebody else's file."""
    engine = AcceptorStore(tmp_path / "store")
    batch = engine.begin()
    batch.put("rows", b"late", b"late")
    engine.close()
    fds = [os.open(tmp_path / f"file-{n}", os.O_RDWR | os.O_CREAT) for n in range(12)]
    try:
        with pytest.raises(Closed):
            asyncio.run(engine.commit(batch))
        engine.close()
        assert [os.fstat(fd).st_size for fd in fds] == [0] * len(fds)
    finally:
        for fd in fds:
            os.close(fd)


def test_a_store_that_is_closed_before_it_could_be_condemned_is_condemned(tmp_path):
    """The scrub found that rows are missing while a checkpoint was on its way."""

    async def work():
        engine = AcceptorStore(tmp_path / "store")
        batch = engine.begin()
        batch.put("rows", b"key", b"value")
        await engine.commit(batch)
        engine._checkpoint()
        assert engine._saving is not None
        for held in engine._tables.sums.values():
            held.total += 1
        for _ in range(20):
            engine.scrub()
        assert engine.health()
        engine.close()

    asyncio.run(work())
    with pytest.raises(StoreDamaged, match="rows are missing"):
        AcceptorStore(tmp_path / "store")


async def test_a_server_that_has_stopped_says_so_whatever_it_is_asked(tmp_path, caplog):
    """Marks that come late make it save them: not in a store that is closed."""
    port, node = Port(), Node(AcceptorStore(tmp_path / "store"))
    with turned(server_marks_pending=1):
        node.submit(port, 1, Write("s", 0, B1, [3], [b"value"]))
        await settled(node)
        node.submit(port, 2, Decided("s", 0, B1, [(3, 4)]))
        await node.stop()
        late = [Read("s", 0, [(0, 9)]), Status(), Write("s", 0, B1, [4], [b""]), Spaces("")]
        for n, message in enumerate(late, 10):
            node.submit(port, n, message)
        node.submit(port, 3, Decided("s", 0, B1, [(3, 4)]))
        await settled(node)
    assert [getattr(port.of(n)[0], "code", None) for n in range(10, 14)] == [STOPPING] * 4
    assert node.counters.faults == node.counters.damaged == 0
    assert not caplog.records


def test_a_commit_that_is_dropped_with_its_event_loop_alarms_nobody(tmp_path, caplog):
    """As when a simulated world ends; what such a store is asked next is refused all the same."""
    engine = AcceptorStore(tmp_path / "store")
    node = Node(AcceptorStore(tmp_path / "other"))
    loop = asyncio.new_event_loop()
    batch = engine.begin()
    batch.put("rows", b"key", bytes(KNOBS.store_inline_bytes + 1))

    async def begin():
        commit = loop.create_task(engine.commit(batch))
        node.submit(Port(), 1, Write("s", 0, B1, [3], [bytes(KNOBS.store_inline_bytes + 1)]))
        await asyncio.sleep(0)
        return commit, node._worker

    for task in loop.run_until_complete(begin()):
        task._log_destroy_pending = False
        task.get_coro().close()
    assert "dropped half-way" in engine.health()
    assert not [record for record in caplog.records if record.levelname == "CRITICAL"]
    engine.close()
    loop.close()


class Noted(SystemFiles):
    """Knows what is open: descriptors, environments, and threads that have begun."""

    def __init__(self):
        self.open_now, self.workers, self.environments = set(), [], []

    def open(self, path, flags):
        fd = super().open(path, flags)
        self.open_now.add(fd)
        return fd

    def close(self, fd):
        self.open_now.discard(fd)
        super().close(fd)

    def worker(self, name):
        self.workers.append(super().worker(name))
        return self.workers[-1]

    def open_tables(self, path, map_bytes, most):
        self.environments.append(super().open_tables(path, map_bytes, most))
        return self.environments[-1]

    @property
    def left(self):
        """What of it is open still."""
        busy = []
        for env in self.environments:
            try:
                env.stat()
                busy.append(env)
            except lmdb.Error:
                pass
        return len(self.open_now), len(busy), sum(w._thread.is_alive() for w in self.workers)


@pytest.mark.parametrize("written", [False, True])
def test_a_closed_store_leaves_nothing_open(tmp_path, written):
    files = Noted()
    engine = AcceptorStore(tmp_path / "store", files=files)

    async def fill():
        for i in range(3):
            batch = engine.begin()
            batch.put("rows", b"key %d" % i, b"value")
            with turned(store_checkpoint_bytes=1):
                await engine.commit(batch)
        assert engine._scrubbing is not None

    if written:
        asyncio.run(fill())
    opened = files.left
    assert opened[0] >= 3
    assert opened[1:] == (1, 2)
    engine.close()
    assert files.left == (0, 0, 0)
    again = AcceptorStore(tmp_path / "store")
    assert [value for _, value in again.view.scan("rows", b"", END)] == [b"value"] * 3 * written
    again.close()


def test_a_store_that_cannot_be_opened_leaves_nothing_open(tmp_path):
    AcceptorStore(tmp_path / "store").close()
    files = Noted()
    (tmp_path / "store" / "journal.0").write_bytes(b"")
    with pytest.raises(StoreDamaged):
        AcceptorStore(tmp_path / "store", files=files)
    assert files.left == (0, 0, 0)


def test_a_store_that_can_have_no_threads_says_so_and_leaves_nothing_open(tmp_path):
    class Alone(Noted):
        def worker(self, name):
            if self.workers:
                raise RuntimeError("can't start new thread")
            return super().worker(name)

    files = Alone()
    with pytest.raises(StoreError, match="can't start new thread"):
        AcceptorStore(tmp_path / "store", files=files)
    assert files.left == (0, 0, 0)


def test_a_store_to_which_nothing_was_written_is_closed_without_waiting_for_the_disk(tmp_path):
    class Waits(SystemFiles):
        count = 0

        def sync(self, fd):
            self.count += 1
            super().sync(fd)

        def sync_data(self, fd):
            self.count += 1
            super().sync_data(fd)

    files = Waits()
    engine = AcceptorStore(tmp_path / "store", files=files)
    before = files.count
    assert before > 0
    engine.close()
    assert files.count == before


async def test_a_store_that_was_killed_makes_no_checkpoint_unless_both_its_files_are_needed(
    tmp_path, monkeypatch
):
    made = []
    real = AcceptorStore._checkpoint_now
    monkeypatch.setattr(
        AcceptorStore, "_checkpoint_now", lambda self: made.append(self) or real(self)
    )
    engine = AcceptorStore(tmp_path / "store")
    made.clear()
    for name in ("one", "both"):
        batch = engine.begin()
        batch.put("rows", name.encode(), b"value")
        await engine.commit(batch)
        if name == "both":
            engine._tables.commit(engine._journal.last, engine._journal.next_salt)
            engine._journal.switch()
            engine._tables.begin()
            batch = engine.begin()
            batch.put("rows", b"later", b"value")
            await engine.commit(batch)
        shutil.copytree(tmp_path / "store", tmp_path / name)
    for name, checkpoints, count in (("one", 0, 1), ("both", 1, 3)):
        made.clear()
        again = AcceptorStore(tmp_path / name)
        assert len(made) == checkpoints
        assert len(list(again.view.scan("rows", b"", END))) == count
        again.close()
    engine.close()
