"""A store's format: a newer one is refused as such, and an earlier one is read."""

import shutil
from pathlib import Path

import pytest
from tests.store.rotting import END, value

from wormspace.errors import NewerFormat, StoreDamaged
from wormspace.server.storage import AcceptorStore
from wormspace.store import lmdb_tables, roots
from wormspace.store.checksum import checksum
from wormspace.store.roots import Checkpoint

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("module", [roots, lmdb_tables])
def test_a_newer_format_is_told_from_damage(tmp_path, module, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(module, "VERSION", 2)
        AcceptorStore(tmp_path / "store").close()
    with pytest.raises(NewerFormat, match=r"format 2.*up to 1: update"):
        AcceptorStore(tmp_path / "store")


@pytest.mark.parametrize("magic", [roots.MAGIC, b"WSROOTS-", b"WSROOTS/"])
def test_what_another_program_wrote_is_no_checkpoint(magic):
    """Not even if its checksum is right."""
    head = roots._HEAD.pack(magic, roots.VERSION, 5, b"the-salt", 6, 8192, 5, 0)[: -roots._SUM]
    head += checksum(b"pages", checksum(head)).to_bytes(roots._SUM, "big")
    found = roots._read(head + b"pages", Path("roots"))
    assert found == (
        Checkpoint(5, b"the-salt", 6, 8192, b"pages") if magic == roots.MAGIC else None
    )


def test_only_a_whole_mark_says_that_something_is_lost():
    text = b"rows are missing"
    head = roots._MARK.pack(roots.LOST, roots.VERSION, len(text), 0)[: -roots._SUM]
    mark = head + checksum(text, checksum(head)).to_bytes(roots._SUM, "big") + text
    with pytest.raises(StoreDamaged, match=r"^rows are missing$"):
        roots._refuse_mark(mark + bytes(100))
    for size in range(len(mark)):
        roots._refuse_mark(mark[:size])
    for at in range(len(mark)):
        if not 8 <= at < 12:  # of any version
            for bit in range(8):
                wrong = bytearray(mark)
                wrong[at] ^= 1 << bit
                roots._refuse_mark(bytes(wrong))


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
