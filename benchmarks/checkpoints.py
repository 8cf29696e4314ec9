"""How long a checkpoint holds up a server: `python benchmarks/checkpoints.py [DIRECTORY]`.

The part that waits for nothing, in the event loop's turn: LMDB hands the pages that changed to the
system, 64 runs of them in one call.  CPU milliseconds per 16 MiB of rows, by their size and by how
much is handed over at once.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import lmdb

TOTAL_BYTES = 16 << 20
ROUNDS = 12
SIZES = (100, 30_000, 60_000, 115_000, 500_000)
AT_ONCE = (16 << 20, 4 << 20, 2 << 20)


def commit_ms(path: Path, size: int, at_once: int) -> float:
    """CPU milliseconds of committing `TOTAL_BYTES` of rows, `at_once` bytes a commit."""
    cold = bytearray(64 << 20)
    times = []
    path.mkdir()
    env = lmdb.open(str(path), map_size=4 << 30, sync=False, lock=False)
    value, key = os.urandom(size), 0
    for _ in range(ROUNDS):
        spent = 0.0
        for _ in range(TOTAL_BYTES // at_once):
            txn = env.begin(write=True)
            for _ in range(at_once // size):
                txn.put(key.to_bytes(8, "big"), value)
                key += 1
            cold[:] = bytes(len(cold))  # half a second later nothing of it is in a cache
            began = time.process_time()
            txn.commit()
            spent += time.process_time() - began
        times.append(spent)
        env.sync(True)
    env.close()
    return statistics.median(times) * 1e3


def main(directory: str) -> None:
    """Print a line per size of rows."""
    print(f"{'bytes a row':>12}", *(f"{n >> 20:>4} MiB" for n in AT_ONCE))
    # All files stay to the end: a system that gets memory back hands the same out again.
    with tempfile.TemporaryDirectory(dir=directory) as base:
        for size in SIZES:
            times = [commit_ms(Path(base) / f"{size}-{n}", size, n) for n in AT_ONCE]
            print(f"{size:>12}", *(f"{ms:8.1f}" for ms in times))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".")
