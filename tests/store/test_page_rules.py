"""Each rule that a page of LMDB's must keep, on a file of a dozen small pages made by hand."""

from __future__ import annotations

import struct

import pytest

from wormspace.store import pages as pages_module
from wormspace.store.pages import PageCheck, PageDamaged

PAGE = 256
BRANCH, LEAF, LARGE, ROOT = 1, 2, 4, 8
BIG, SUB = 1, 2
NONE = (1 << 64) - 1
LAST = 13

# 0, 1 roots; 2 tree of trees; 3 tree of free pages; 4 branch of rows, to leaves 5 and 6; 7 and 8 a
# large value of 6; 9 free; 10 and 11 a large list of free pages; 12 and 13 free.


def node(key: bytes, data: bytes, flags: int = 0, size: int | None = None) -> bytes:
    """A row, of an even number of bytes."""
    size = len(data) if size is None else size
    return struct.pack("<HHHH", size & 0xFFFF, size >> 16, flags, len(key)) + key + data


def child(key: bytes, number: int) -> bytes:
    low, middle, high = (number >> shift & 0xFFFF for shift in (0, 16, 32))
    return struct.pack("<HHHH", low, middle, high, len(key)) + key


def page(number: int, kind: int, *nodes: bytes, lower=None, upper=None, at=None) -> bytes:
    """A page whose nodes stand at its end, the last one up to the last byte."""
    start = PAGE - sum(map(len, nodes))
    offsets, where = [], start
    for one in nodes:
        offsets.append(where)
        where += len(one)
    lower = 16 + 2 * len(nodes) if lower is None else lower
    head = struct.pack("<QHHHH", number, 0, kind, lower, start if upper is None else upper)
    head += struct.pack(f"<{len(nodes)}H", *(at or offsets))
    return head.ljust(start, b"\0") + b"".join(nodes)


def large(number: int, value: bytes, count: int = 2, kind: int = LARGE, says=None) -> bytes:
    head = struct.pack("<QHHI", number, 0, kind, count if says is None else says)
    return (head + value).ljust(count * PAGE, b"\0")


def tree(depth: int, branches: int, leaves: int, rows: int, root: int) -> bytes:
    return struct.pack("<IHHQQQQQ", 0, 0, depth, branches, leaves, 0, rows, root)


def root(number: int, transaction: int, last=LAST, free=None, trees=None, kind=ROOT) -> bytes:
    free = tree(1, 0, 1, 2, 3) if free is None else free
    trees = tree(1, 0, 1, 1, 2) if trees is None else trees
    whole = struct.pack("<QHHHH", number, 0, kind, 0, 0)
    whole += struct.pack("<IIQQ", 0xBEEFC0DE, 1, 0, 0) + free + trees
    return (whole + struct.pack("<QQ", last, transaction)).ljust(PAGE, b"\0")


def number(n: int) -> bytes:
    return struct.pack("<Q", n)


ROWS = tree(2, 1, 2, 4, 4)
BIG_BYTES = 2 * PAGE - 16
A, B, N = node(b"aa", b"11"), node(b"bb", b"2222"), node(b"nn", b"33")
M = node(b"mm", number(7), BIG, BIG_BYTES)
FEW = node(number(255), struct.pack("<QQ", 1, 9))
MANY = node(number(256), number(10), BIG, 24)

WHOLE = {
    0: root(0, 5),
    1: root(1, 4, trees=tree(1, 0, 9, 9, 2)),  # of an earlier transaction
    2: page(2, LEAF, node(b"rows", ROWS, SUB)),
    3: page(3, LEAF, FEW, MANY),
    4: page(4, BRANCH, child(b"", 5), child(b"mm", 6)),
    5: page(5, LEAF, A, B),
    6: page(6, LEAF, M, N),
    7: large(7, bytes(BIG_BYTES)),
    9: bytes(PAGE),
    10: large(10, struct.pack("<QQQ", 2, 12, 13)),
    12: bytes(2 * PAGE),
}


class File:
    """A file in memory; it notes what is read."""

    def __init__(self, changes: dict[int, bytes], size: int = 1 << 20) -> None:
        held = WHOLE | changes
        self.roots = held[0] + held[1]
        self.content = b"".join(held[n] for n in sorted(held))[:size]
        self.reads: list[int] = []

    def read(self, fd, size, at):
        self.reads.append(at // PAGE)
        return self.content[at : at + size]


def check(changes: dict[int, bytes] | None = None, leaves: int = 99, **more) -> PageCheck:
    file = File(changes or {}, **more)
    assert len(file.content) % PAGE == 0
    found = PageCheck(file, 7, file.roots, leaves)
    found.run()
    return found


@pytest.mark.parametrize("leaves", [0, 1, 2, 99])
def test_a_whole_file_is_whole_however_much_is_looked_at(leaves: int) -> None:
    met = check(leaves=leaves)._met
    assert [n for n, is_met in enumerate(met) if not is_met] == ([7, 8] if leaves < 2 else [])


def with_rows(depth=2, branches=1, leaves=2, rows=4, start=4) -> dict[int, bytes]:
    """The tree of rows says so of itself."""
    return {2: page(2, LEAF, node(b"rows", tree(depth, branches, leaves, rows, start), SUB))}


def deep() -> dict[int, bytes]:
    """A tree of rows of four levels: a branch, two, four, and eight leaves with a row each."""
    first, made = 14, {}
    for count in (1, 2, 4):
        for i in range(count):
            below, middle = first + count + 2 * i, (2 * i + 1) * 4 // count
            made[first + i] = page(
                first + i, BRANCH, child(b"", below), child(b"%d" % middle, below + 1)
            )
        first += count
    for i in range(8):
        made[first + i] = page(first + i, LEAF, node(b"%d" % i, b"v"))
    return made | with_rows(4, 7, 8, 8, 14) | {0: root(0, 5, last=28)}


@pytest.mark.parametrize("leaves", range(10))
def test_all_branches_are_looked_at_however_few_leaves_are(leaves: int) -> None:
    assert all(check(deep(), leaves=leaves)._met[14:])
    twice = deep() | {20: page(20, BRANCH, child(b"", 26), child(b"9", 28))}
    with pytest.raises(PageDamaged):
        check(twice, leaves=leaves)
    for branch in range(14, 21):
        with pytest.raises(PageDamaged, match=f"page {branch} "):
            check(deep() | {branch: page(branch, LEAF, A)}, leaves=leaves)


FINE = {
    "an empty tree": with_rows(0, 0, 0, 0, NONE),
    "a value with room to spare": {6: page(6, LEAF, node(b"mm", number(7), BIG, 5), N)},
    "room between what is above and below": {5: page(5, LEAF, A, B, upper=100)},
    "a key of nothing in a branch": {4: page(4, BRANCH, child(b"zz", 5), child(b"mm", 6))},
    "the other root is the later one": {
        0: root(0, 3, trees=tree(1, 0, 9, 9, 2)),
        1: root(1, 4),
    },
}


@pytest.mark.parametrize("what", FINE)
def test_what_may_be_is_whole(what: str) -> None:
    check(FINE[what])


ORDER, OUTSIDE = "page {}: keys are not in order", "page {}: a node is outside"
NODES, ROOM = "page {}: its nodes are not where they can be", "page {}: a row is larger than"
WRONG = {
    "another page's number": ({5: page(6, LEAF, A, B)}, "page 5 is no leaf of that number"),
    "an earlier page's number": ({5: page(4, LEAF, A, B)}, "page 5 is no leaf of that number"),
    "a branch for a leaf": ({5: page(5, BRANCH, A, B)}, "page 5 is no leaf"),
    "a leaf with one more flag": ({5: page(5, LEAF | 16, A, B)}, "page 5 is no leaf"),
    "a leaf for a branch": (
        {4: page(4, LEAF, child(b"", 5), child(b"mm", 6))},
        "page 4 is no branch of that number",
    ),
    "no nodes": ({5: page(5, LEAF, A, B, lower=16)}, NODES.format(5)),
    "below above above": ({5: page(5, LEAF, A, B, lower=20, upper=18)}, NODES.format(5)),
    "above beyond the page": ({5: page(5, LEAF, A, B, upper=PAGE + 1)}, NODES.format(5)),
    "half an offset": ({5: page(5, LEAF, A, B, lower=19)}, NODES.format(5)),
    "a node below the others": (
        {5: page(5, LEAF, A, B, at=[PAGE - len(A + B) - 2, PAGE - len(B)])},
        OUTSIDE.format(5),
    ),
    "a node without its head": (
        {5: page(5, LEAF, A, B, at=[PAGE - len(A + B), PAGE - 7])},
        OUTSIDE.format(5),
    ),
    "a key beyond the page": (
        {5: page(5, LEAF, A, struct.pack("<HHHH", 0, 0, 0, 7) + b"bb2222")},
        OUTSIDE.format(5),
    ),
    "a row beyond the page": ({5: page(5, LEAF, A, node(b"bb", b"2222", size=5))}, ROOM.format(5)),
    "a row of 64 KiB": ({5: page(5, LEAF, A, node(b"bb", b"2222", size=65540))}, ROOM.format(5)),
    "a kind of row that is not used": (
        {5: page(5, LEAF, node(b"aa", b"11", 4), B)},
        ROOM.format(5),
    ),
    "a tree cut short": (
        {2: page(2, LEAF, node(b"rows", ROWS[:-2], SUB))},
        "page 2: a tree is not described",
    ),
    "keys that change places": ({5: page(5, LEAF, B, A)}, ORDER.format(5)),
    "a key twice": ({5: page(5, LEAF, A, A)}, ORDER.format(5)),
    "a key above the leaf": ({5: page(5, LEAF, A, node(b"mm", b"11"))}, ORDER.format(5)),
    "a key below the leaf": ({6: page(6, LEAF, node(b"ml", b"11"), N)}, ORDER.format(6)),
    "free pages out of order": ({3: page(3, LEAF, MANY, FEW)}, ORDER.format(3)),
    "branches out of order": (
        {4: page(4, BRANCH, child(b"", 5), child(b"", 6))},
        ORDER.format(4),
    ),
    "a branch to one page": (
        {4: page(4, BRANCH, child(b"", 5))},
        "page 4 is a branch to one page only",
    ),
    "a page twice": (
        {4: page(4, BRANCH, child(b"", 5), child(b"mm", 5))},
        "page 5 is named twice",
    ),
    "a root as a page": (
        {4: page(4, BRANCH, child(b"", 1), child(b"mm", 6))},
        "page 1 is named, and is beyond the last one",
    ),
    "a page beyond the last": (
        {4: page(4, BRANCH, child(b"", 5), child(b"mm", LAST + 1))},
        "page 14 is named, and is beyond the last one",
    ),
    "a page far beyond": (
        {4: page(4, BRANCH, child(b"", 5), child(b"mm", 6 | 1 << 32))},
        "page 4294967302 is named, and is beyond",
    ),
    "a tree that is too low": (with_rows(depth=1), "page 4 is no leaf of that number"),
    "a tree that is too high": (with_rows(depth=3), "page 5 is no branch of that number"),
    "a tree without a level": (with_rows(depth=0), "page 4 is below the leaves"),
    "one branch more": (with_rows(branches=2), r"has \[1, 2, 4\] branches, .* had \[2, 2, 4\]"),
    "one leaf less": (with_rows(leaves=1), r"has \[1, 2, 4\] branches, .* had \[1, 1, 4\]"),
    "one row more": (with_rows(rows=5), r"has \[1, 2, 4\] branches, .* had \[1, 2, 5\]"),
    "another value's number": (
        {7: large(8, bytes(BIG_BYTES))},
        f"page 7 does not begin a value of {BIG_BYTES} bytes",
    ),
    "a leaf for a value": ({7: large(7, bytes(BIG_BYTES), kind=LEAF)}, "page 7 does not begin"),
    "a value that is longer than its pages": (
        {6: page(6, LEAF, node(b"mm", number(7), BIG, BIG_BYTES + 1), N)},
        f"page 7 does not begin a value of {BIG_BYTES + 1} bytes",
    ),
    "a value in one page too many": (
        {7: large(7, bytes(BIG_BYTES), says=3)},
        "page 9 is named twice|page 8 is named twice",
    ),
    "a value in very many pages": (
        {7: large(7, bytes(BIG_BYTES), says=2 | 1 << 16)},
        "page 8 is named",
    ),
    "a free page in use": (
        {3: page(3, LEAF, node(number(255), struct.pack("<QQ", 1, 5)), MANY)},
        "page 5 is named twice",
    ),
    "a free page beyond the last": (
        {3: page(3, LEAF, node(number(255), struct.pack("<QQ", 1, 14)), MANY)},
        "page 14 is named, and is beyond the last one",
    ),
    "fewer free pages than are listed": (
        {3: page(3, LEAF, node(number(255), struct.pack("<QQ", 2, 9)), MANY)},
        "page 3: a list of free pages has another length",
    ),
    "no list of free pages": (
        {3: page(3, LEAF, node(number(255), b""), MANY)},
        "page 3: a list of free pages has another length",
    ),
    "a large list of another length": (
        {10: large(10, struct.pack("<QQQ", 1, 12, 13))},
        "page 10: a list of free pages has another length",
    ),
    "a free page twice": (
        {10: large(10, struct.pack("<QQQ", 2, 12, 12))},
        "page 12 is named twice",
    ),
    "no root": ({1: root(1, 4, kind=LEAF)}, "page 1 is no root"),
    "another magic": ({0: root(0, 5).replace(b"\xde\xc0\xef\xbe", b"\0" * 4)}, "page 0 is no root"),
    "a magic of above": ({0: root(0, 5).replace(b"\xde\xc0", b"\xdf\xc0")}, "page 0 is no root"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_told_with_its_page(what: str) -> None:
    changes, text = WRONG[what]
    with pytest.raises(PageDamaged, match=text):
        check(changes)


def test_of_leaves_that_are_not_looked_at_the_numbers_count() -> None:
    for leaves in (0, 1):
        check({6: page(6, LEAF, N, M)}, leaves=leaves)
        for wrong, text in ((1, "page 1 is named"), (5, "named twice"), (14, "page 14 is named")):
            with pytest.raises(PageDamaged, match=text):
                check({4: page(4, BRANCH, child(b"", 5), child(b"mm", wrong))}, leaves=leaves)
        with pytest.raises(PageDamaged, match="branches, leaves and rows"):
            check(with_rows(leaves=3), leaves=leaves)


def test_a_file_that_ends_early_is_damaged() -> None:
    with pytest.raises(PageDamaged, match="page 10 is behind the end of the file"):
        check(size=10 * PAGE)


def test_pages_are_read_some_at_a_time_and_some_are_kept(monkeypatch) -> None:
    monkeypatch.setattr(pages_module, "_PIECE_PAGES", 2)
    for most, kept in ((1, 1), (2, 2), (99, 4)):
        monkeypatch.setattr(pages_module, "_MOST_PIECES", most)
        file = File({})
        found = PageCheck(file, 7, file.roots, 99)
        found.run()
        assert file.reads == [2, 10, 10, 4, 6]  # the large list is read whole
        assert len(found._pieces) == kept
