"""What a store cannot take: it says so, and what it has stays."""

import contextlib
import subprocess
import sys

import pytest
from tests.store.rotting import END, put

from wormspace.errors import StoreError, StoreFull
from wormspace.knobs import turned
from wormspace.server.storage import AcceptorStore
from wormspace.store.files import SystemFiles


async def test_a_bad_key_is_refused_before_the_journal_has_it(tmp_path):
    engine = AcceptorStore(tmp_path / "store")
    for table, key in [("rows", b""), ("rows", bytes(511)), ("no such", b"k")]:
        batch = engine.begin()
        batch.put(table, key, b"v")
        with pytest.raises(ValueError, match=r"key|table"):
            await engine.commit(batch)
    await put(engine, 1)
    engine.close()


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


async def test_a_full_store_takes_no_replacement_that_is_larger(tmp_path):
    """Not even by a byte: each row could be replaced again and again."""

    async def put_many(keys, size):
        batch = engine.begin()
        batch.put_many("rows", [(b"%06d" % n, bytes(size)) for n in keys])
        await engine.commit(batch)

    engine = AcceptorStore(tmp_path / "store", durability="os", max_bytes=1 << 20)
    count = 0
    with contextlib.suppress(StoreFull):
        while True:
            await put_many(range(count, count + 200), 100)
            count += 200
    before = engine.metrics()["store_used_bytes"]
    for size in (101, 108, 109):
        with pytest.raises(StoreFull, match="its limit of 1048576 bytes"):
            await put_many(range(count), size)
    for size in (100, 99):
        await put_many(range(count), size)
    assert engine.metrics()["store_used_bytes"] == before
    engine.close()
