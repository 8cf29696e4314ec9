"""What rots on a simulated disk, and whether the store can tell.

A journal's last record that rots cannot be told from one that was torn by a crash, unless a mark in
the other file says that it was durable (`store/journal_file.py`).  `JournalReader` is a second
reading of the format, made to be naive: it knows the two files alone, and says where the whole
records end, or that what is there proves damage.  Damage that makes the one end another one is the
limit that docs/safety.md names; all other damage must be told, or do no harm.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from wormspace.store.checksum import checksum

SECTOR = 512
_BLOCK = 4096
_RECORD = 29
_MARK = 2048


def rotten(random: Random, content: bytes, n: int, among: list[int], older: list[bytes]) -> bytes:
    """What sector `n` of some content holds once it has rotted.

    Args:
        among: sectors in whose place another one may have been written.
        older: what the sector held before.
    """
    held = content[n * SECTOR : (n + 1) * SECTOR]
    kind = random.choice(("a bit", "zeros", "a misdirected write", "a lost write"))
    if kind == "a bit":
        at = random.randrange(len(held))
        return held[:at] + bytes([held[at] ^ 1 << random.randrange(8)]) + held[at + 1 :]
    if kind == "zeros":
        return bytes(len(held))
    if kind == "a misdirected write":
        there = random.choice(among) * SECTOR
        return content[there : there + SECTOR].ljust(len(held), b"\0")[: len(held)]
    return random.choice(older).ljust(len(held), b"\0")[: len(held)] if older else held


class End(NamedTuple):
    """Where the whole records of a file end, and the number of the last one (0: none)."""

    at: int
    number: int


class JournalReader:
    """Reads the files of one journal; it must have seen each use of a file before that rots."""

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}

    def end(self, journal: bytes, other: bytes) -> End | None:
        """The end of `journal`; None: it, or the other file, proves that something is damaged."""
        if not any(journal[:_BLOCK]):
            return End(0, 0)
        salt = journal[12:20]
        if journal[:8] != b"WSJOURNL" or journal[28:36] != _sum(journal[:28]):
            return None
        at, number = _BLOCK, self._first.get(salt, int.from_bytes(journal[4104:4112], "big"))
        while size := _record(journal, at, salt + number.to_bytes(8, "big")):
            self._first.setdefault(salt, number)
            at, number = at + size, number + 1
        later = [int.from_bytes(part[:8], "big") for part in journal[at + 1 :].split(salt)[1:]]
        if any(number < held < number + len(journal) // _RECORD for held in later):
            return None
        last = number - 1 if salt in self._first else 0
        mark = other[_MARK : _MARK + 24]
        is_marked = mark[:8] == salt and mark[16:] == _sum(mark[:16])
        if salt in self._first and is_marked and int.from_bytes(mark[8:16], "big") > last:
            return None
        return End(at, last)


def _record(journal: bytes, at: int, begin: bytes) -> int:
    """The bytes of the record at `at` that begins so; 0 if there is no whole one."""
    head = journal[at : at + _RECORD]
    size = int.from_bytes(head[17:21], "big")
    payload = journal[at + _RECORD : at + _RECORD + size]
    is_whole = head[:16] == begin and head[21:] == _sum(payload, checksum(head[:21]))
    return _RECORD + size if is_whole else 0


def _sum(content: bytes, seed: int = 0) -> bytes:
    return checksum(content, seed).to_bytes(8, "big")
