"""Makes a golden store: `python tests/store/golden/make.py NAME`, once per format version.

As a killed process leaves it: some rows in the tables, some in each file of the journal.  Files of
released versions are never made anew.
"""

import asyncio
import sys
import tarfile
import tempfile
from pathlib import Path

from wormspace.knobs import turned
from wormspace.server.storage import AcceptorStore


async def fill(path):
    """Forty rows, one of them deleted, and a promise."""
    engine = AcceptorStore(path)
    for n in range(40):
        batch = engine.begin()
        batch.put("rows", b"%06d" % n, b"<%04d>" % n * 30)
        if n == 20:
            batch.put("promises", b"p", b"\0\xff")
            batch.delete("rows", b"000007")
        await engine.commit(batch)
        if n in (12, 30):
            engine._checkpoint()
            await asyncio.sleep(0.1)  # n == 12 is brought to disk
        if n == 20:
            engine._saver.run = lambda work: asyncio.sleep(3600)  # n == 30 never is


def main(name):
    """Write NAME.tar.gz beside this file."""
    with tempfile.TemporaryDirectory() as base, turned(store_journal_step_bytes=8192):
        asyncio.run(fill(Path(base) / name))
        with tarfile.open(Path(__file__).parent / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(Path(base) / name, name)


if __name__ == "__main__":
    main(sys.argv[1])
