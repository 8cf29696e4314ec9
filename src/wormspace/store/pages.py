"""Reads the structure of LMDB's file itself, before LMDB does.

LMDB believes its pages.  One that rotted makes it read beside the page, or end the process by an
assertion, and a key in a branch that rotted makes it look for rows in the wrong leaf: "nothing is
here".  So when a store is opened, its trees are walked here first: all branches, and of the leaves
as many as take no noticeable time.  Whether *rows* are what was written, their checksums say.

The format is that of LMDB 0.9, little-endian, 64 bits:

    page    number (8), pad (2), flags (2), lower (2), upper (2), or pages of a large value (4);
            then `lower - 16` bytes of offsets of nodes (2 each), which stand from `upper` on
    node    low and high half of a size (2, 2), flags (2), bytes of the key (2), key, data; of a
            branch, these 6 bytes are the number of a page
    tree    pad (4), flags (2), depth (2), branch, leaf and overflow pages, entries, root (8 each)
    root    page 0 or 1, whichever has the higher transaction: magic (4), version (4), address (8),
            size of the map (8), tree of free pages, tree of trees, last page (8), transaction (8)
"""

from __future__ import annotations

import struct
from collections import OrderedDict

from wormspace.runtime.disk import read_all
from wormspace.store.files import Files

_PAGE = struct.Struct("<QHHHH")
_NODE = struct.Struct("<HHHH")
_TREE = struct.Struct("<IHHQQQQQ")
_ROOT_AT = _PAGE.size
_MAGIC = struct.pack("<II", 0xBEEFC0DE, 1)
_TREES_AT = _ROOT_AT + 24
_LAST = struct.Struct("<QQ")
_LAST_AT = _TREES_AT + 2 * _TREE.size
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
_BIG, _SUB = 1, 2
_NONE = (1 << 64) - 1

_PIECE_PAGES, _MOST_PIECES = 16, 128
"""So much is read at once, and kept."""


class PageDamaged(Exception):
    """A page is not what LMDB wrote; the text says which, and why."""


class PageCheck:
    """One walk over all trees.

    Args:
        fd: the file.
        roots: its first two pages.
        leaves: how many leaves are looked at; of branches, all.
    """

    def __init__(self, files: Files, fd: int, roots: bytes, leaves: int) -> None:
        self._files = files
        self._fd = fd
        self._roots = roots
        self._most = self._leaves = leaves
        self._page_bytes = len(roots) // 2
        self._pieces: OrderedDict[int, bytes] = OrderedDict()
        self._met = bytearray()
        self._trees: list[bytes] = []
        self._found = [0, 0, 0]  # branches, leaves, rows

    def run(self) -> None:
        """Walk.

        Raises:
            PageDamaged
            OSError: the file cannot be read.
        """
        root = max((self._root(0), self._root(self._page_bytes)), key=lambda r: r[0])
        _, last, free, trees = root
        self._met = bytearray(last + 1)
        self._met[:2] = b"\1\1"
        self._leaves = len(self._met)  # of these two trees all: they are small
        self._tree(trees)
        self._tree(free, free=True)
        self._leaves = self._most
        for tree in self._trees:
            self._tree(tree)

    def _root(self, at: int) -> tuple[int, int, bytes, bytes]:
        """Transaction, last page, tree of free pages, tree of trees."""
        page = self._roots[at : at + self._page_bytes]
        if _PAGE.unpack_from(page)[2] != _META or page[_ROOT_AT : _ROOT_AT + 8] != _MAGIC:
            raise PageDamaged(f"page {at // self._page_bytes} is no root")
        last, transaction = _LAST.unpack_from(page, _LAST_AT)
        middle = _TREES_AT + _TREE.size
        return transaction, last, page[_TREES_AT:middle], page[middle:_LAST_AT]

    # ------------------------------------------------------------ trees

    def _tree(self, tree: bytes, *, free: bool = False) -> None:
        _, _, depth, branches, leaves, _, rows, root = _TREE.unpack(tree)
        self._found = [0, 0, 0]
        if root != _NONE:
            self._walk(root, depth, b"", None, free)
        if self._leaves < 0:
            self._found[2] = rows  # not all were counted
        if self._found != [branches, leaves, rows]:
            raise PageDamaged(
                f"the tree of page {root} has {self._found} branches, leaves and rows, and had "
                f"{[branches, leaves, rows]}"
            )

    def _walk(self, number: int, depth: int, lo: bytes, hi: bytes | None, free: bool) -> None:
        """A page `depth` levels high, whose keys are from `lo` up to below `hi`."""
        self._meet(number, 1)
        if depth < 1:
            raise PageDamaged(f"page {number} is below the leaves")
        if depth == 1:
            self._found[1] += 1
            self._leaves -= 1
            if self._leaves >= 0:
                self._leaf(number, lo, hi, free)
            return
        self._found[0] += 1
        page, offsets = self._nodes(number, _BRANCH)
        if len(offsets) < 2:
            raise PageDamaged(f"page {number} is a branch to one page only")
        keys, children = [], []
        for at in offsets:
            low, middle, high, size = self._node(number, page, at)
            keys.append(page[at + 8 : at + 8 + size])
            children.append(low | middle << 16 | high << 32)
        keys[0] = lo
        self._check_order(number, keys, lo, hi, free)
        if depth == 2 and self._leaves <= 0:
            self._pass(children)
            return
        for child, begin, end in zip(children, keys, [*keys[1:], hi], strict=True):
            self._walk(child, depth - 1, begin, end, free)

    def _pass(self, leaves: list[int]) -> None:
        """Leaves that are not looked at: as a rule most of the file."""
        met = self._met
        for number in leaves:
            if not 1 < number < len(met) or met[number]:
                self._meet(number, 1)
            met[number] = 1
        self._found[1] += len(leaves)
        self._leaves -= len(leaves)

    def _leaf(self, number: int, lo: bytes, hi: bytes | None, free: bool) -> None:
        page, offsets = self._nodes(number, _LEAF)
        self._found[2] += len(offsets)
        keys = []
        for at in offsets:
            low, high, flags, size = self._node(number, page, at)
            start = at + 8 + size
            keys.append(page[at + 8 : start])
            length = low | high << 16
            held = 8 if flags & _BIG else length
            if start + held > self._page_bytes or flags not in (0, _BIG, _SUB):
                raise PageDamaged(f"page {number}: a row is larger than the page")
            if flags & _SUB and length != _TREE.size:
                raise PageDamaged(f"page {number}: a tree is not described")
            if flags & _SUB:
                self._trees.append(page[start : start + length])
            elif flags & _BIG:
                self._large(int.from_bytes(page[start : start + 8], "little"), length, free)
            elif free:
                self._free(number, page[start : start + length])
        self._check_order(number, keys, lo, hi, free)

    def _large(self, number: int, length: int, free: bool) -> None:
        """A value in pages of its own; in more than it needs, if it has become shorter."""
        self._meet(number, 1)
        held, _, flags, low, high = _PAGE.unpack_from(self._read(number))
        count = low | high << 16
        has_room = count * self._page_bytes >= _PAGE.size + length
        if (held, flags) != (number, _OVERFLOW) or not has_room:
            raise PageDamaged(f"page {number} does not begin a value of {length} bytes")
        self._meet(number + 1, count - 1)
        if free:
            size = count * self._page_bytes
            value = read_all(self._files, self._fd, size, number * self._page_bytes)
            self._free(number, value[_PAGE.size : _PAGE.size + length])

    def _free(self, number: int, value: bytes) -> None:
        """A list of free pages: LMDB writes to them."""
        size = len(value) // 8
        held = struct.unpack(f"<{size}Q", value[: 8 * size])
        if not held or held[0] != size - 1:
            raise PageDamaged(f"page {number}: a list of free pages has another length")
        for page in held[1:]:
            self._meet(page, 1)

    # ------------------------------------------------------------ pages

    def _meet(self, number: int, count: int) -> None:
        """Pages that belong to one thing alone."""
        met = self._met[number : number + count]
        if number < 2 or len(met) < count:
            raise PageDamaged(f"page {number} is named, and is beyond the last one")
        if any(met):
            raise PageDamaged(f"page {number} is named twice")
        self._met[number : number + count] = b"\1" * count

    def _nodes(self, number: int, kind: int) -> tuple[bytes, tuple[int, ...]]:
        """A page, and where its nodes are."""
        page = self._read(number)
        held, _, flags, lower, upper = _PAGE.unpack_from(page)
        if held != number or flags != kind:
            what = "branch" if kind == _BRANCH else "leaf"
            raise PageDamaged(f"page {number} is no {what} of that number")
        if not _PAGE.size < lower <= upper <= self._page_bytes or lower % 2:
            raise PageDamaged(f"page {number}: its nodes are not where they can be")
        offsets = struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", page, _PAGE.size)
        if min(offsets) < upper:
            raise PageDamaged(f"page {number}: a node is outside")
        return page, offsets

    def _node(self, number: int, page: bytes, at: int) -> tuple[int, int, int, int]:
        """What is before a node's key, which is in the page."""
        if at + 8 <= self._page_bytes:
            head = _NODE.unpack_from(page, at)
            if at + 8 + head[3] <= self._page_bytes:
                return head
        raise PageDamaged(f"page {number}: a node is outside")

    def _check_order(
        self, number: int, keys: list[bytes], lo: bytes, hi: bytes | None, free: bool
    ) -> None:
        """Check that keys ascend, within the bounds; those of free pages are numbers."""
        every = [*keys, hi] if hi is not None else keys
        if free:
            every = [key[::-1] for key in every]
            lo = lo[::-1]
        if every[0] < lo or any(map(bytes.__ge__, every, every[1:])):
            raise PageDamaged(f"page {number}: keys are not in order")

    def _read(self, number: int) -> bytes:
        """One page; several at a time are read."""
        n, at = divmod(number, _PIECE_PAGES)
        piece = self._pieces.get(n)
        if piece is None:
            size = _PIECE_PAGES * self._page_bytes
            piece = self._pieces[n] = read_all(self._files, self._fd, size, n * size)
            if len(self._pieces) > _MOST_PIECES:
                self._pieces.popitem(last=False)
        page = piece[at * self._page_bytes : (at + 1) * self._page_bytes]
        if len(page) < self._page_bytes:
            raise PageDamaged(f"page {number} is behind the end of the file")
        return page
