"""The structure of LMDB's pages is checked before LMDB believes it."""

import itertools
import random

import pytest

from wormspace.errors import StoreDamaged
from wormspace.knobs import turned
from wormspace.server.storage import AcceptorStore
from wormspace.store import roots
from wormspace.store.files import SYSTEM
from wormspace.store.pages import PageCheck, PageDamaged

PAGE = 4096


async def made(path, seed=0, batches=60):
    """A store of rows of all sizes, of which many were overwritten and deleted."""
    rng = random.Random(seed)
    with turned(store_checkpoint_bytes=30_000):
        engine = AcceptorStore(path, durability="os")
        for _ in range(batches):
            batch = engine.begin()
            for _ in range(rng.randint(1, 20)):
                table, key = rng.choice(["rows", "promises"]), b"%05d" % rng.randrange(400)
                if rng.random() < 0.3:
                    batch.delete(table, key)
                else:
                    size = rng.choice([0, 3, 100, 900, 1900, 2100, 9_000, 300_000])
                    batch.put(table, key, rng.randbytes(rng.randint(0, size)))
            await engine.commit(batch)
            if engine._saving is not None and rng.random() < 0.7:
                await engine._saving
        engine.close()


class WithoutFreePages(PageCheck):
    """What a page held before it became free, it still holds."""

    def _free(self, number, value):
        pass


class Tables:
    """The tables' file in memory."""

    def __init__(self, path):
        held = roots.Roots(path)
        self.roots = held.saved.pages
        held.close()
        self.content = bytearray((path / roots.DATA).read_bytes())

    def read(self, fd, size, at):
        return bytes(self.content[at : at + size])

    def check(self, leaves=1 << 20):
        check = PageCheck(self, 0, self.roots, leaves)
        check.run()
        return check

    def is_rows(self, n):
        """Whether a page is a leaf, and its first key one of `made`."""
        page = self.content[n * PAGE : (n + 1) * PAGE]
        node = int.from_bytes(page[16:18], "little")
        return page[10] == 2 and page[node + 8 : node + 13].isdigit()

    def kinds(self):
        """Of the pages of trees, which are branches (1), leaves (2), large values (4)."""
        check = WithoutFreePages(self, 0, self.roots, 1 << 20)
        check.run()
        return {
            n: int.from_bytes(self.content[n * PAGE + 10 : n * PAGE + 12], "little")
            for n in range(2, len(check._met))
            if check._met[n] and self.content[n * PAGE : n * PAGE + 8] == n.to_bytes(8, "little")
        }


@pytest.mark.parametrize("seed", range(4))
async def test_what_lmdb_wrote_is_whole(tmp_path, seed):
    for _ in range(3):
        await made(tmp_path / "store", seed)
        tables = Tables(tmp_path / "store")
        assert set(tables.kinds().values()) >= {1, 2, 4}
        tables.check(leaves=3)


async def test_every_bit_of_a_pages_head_counts(tmp_path):
    """The number, the kind, where its nodes are; not the pad."""
    await made(tmp_path / "store")
    tables = Tables(tmp_path / "store")
    for n, kind in tables.kinds().items():
        if kind == 4 or n % 9:
            continue
        for at in (*range(8), 10, 11, 12, 13, 14, 15):
            for bit in range(8):
                where = n * PAGE + at
                before = tables.content[where]
                tables.content[where] ^= 1 << bit
                free = range(14, 16)  # `upper` may be lower: the room between is less
                if at not in free or tables.content[where] > before:
                    with pytest.raises(PageDamaged):
                        tables.check()
                tables.content[where] = before


async def test_whatever_is_in_the_file_is_told_or_is_a_tree(tmp_path):
    await made(tmp_path / "store")
    whole = Tables(tmp_path / "store")
    pages = sorted(whole.kinds())
    rng = random.Random(1)
    told = 0
    for _ in range(200):
        tables = Tables.__new__(Tables)
        tables.roots, tables.content = whole.roots, bytearray(whole.content)
        at = rng.choice(pages) * PAGE + rng.choice([0, 8, 16, 32, rng.randrange(PAGE)])
        other = rng.choice(pages) * PAGE
        new = rng.choice(
            [
                bytes(rng.choice([1, 2, 8, 512])),
                rng.randbytes(rng.choice([1, 2, 8, 100])),
                b"\xff" * rng.choice([1, 2, 8]),
                whole.content[other : other + 512],
            ]
        )
        tables.content[at : at + len(new)] = new
        try:
            tables.check()
        except PageDamaged:
            told += 1
    assert told > 40


async def test_a_damaged_page_is_named_at_opening(tmp_path):
    await made(tmp_path / "store")
    tables = Tables(tmp_path / "store")
    n = max(n for n, kind in tables.kinds().items() if kind == 1)
    fd = SYSTEM.open(tmp_path / "store" / roots.DATA, 2)
    SYSTEM.write(fd, [b"\x10"], n * PAGE + 10)
    SYSTEM.close(fd)
    with turned(store_check_leaves=0), pytest.raises(StoreDamaged) as told:
        AcceptorStore(tmp_path / "store")
    assert f"data.mdb is damaged: page {n} is no branch" in str(told.value)
    assert "What this server promised is lost" in str(told.value)


async def test_leaves_beyond_the_most_are_not_read(tmp_path):
    await made(tmp_path / "store")
    tables = Tables(tmp_path / "store")
    n = next(n for n in tables.kinds() if tables.is_rows(n))
    tables.content[n * PAGE + 10] = 0x10
    tables.check(leaves=0)
    with pytest.raises(PageDamaged, match=f"page {n} is no leaf"):
        tables.check()


async def test_each_leaf_that_is_not_read_belongs_to_one_branch_all_the_same(tmp_path):
    await made(tmp_path / "store")
    tables = Tables(tmp_path / "store")
    tables.check(leaves=0)
    kinds = tables.kinds()
    for n in [n for n, kind in kinds.items() if kind == 1]:
        _, offsets = PageCheck(tables, 0, tables.roots, 0)._nodes(n, 1)
        for at, beside in itertools.pairwise(offsets[:9]):
            where, there = n * PAGE + at, n * PAGE + beside
            before = bytes(tables.content[where : where + 8])
            tables.content[where : where + 4] = tables.content[there : there + 4]
            with pytest.raises(PageDamaged, match="is named twice"):
                tables.check(leaves=0)
            tables.content[where : where + 8] = before
            tables.content[where + 4] ^= 1  # the high part of the number
            with pytest.raises(PageDamaged, match="beyond the last one"):
                tables.check(leaves=0)
            tables.content[where : where + 8] = before
