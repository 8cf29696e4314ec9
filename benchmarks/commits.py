"""What the disk adds to a lone write: `python benchmarks/commits.py [DIRECTORY]`.

One small commit of LMDB waits for the disk twice (pages, then the root that names them), a record
of the store's journal once; and three servers on one machine do it at the same time.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lmdb

from wormspace.store.journal import Journal

COMMITS = 800
ROWS = 20_000
VALUE = bytes(110)


def lmdb_commit(path: Path) -> Callable[[int], None]:
    """One row more in a store of some size."""
    env = lmdb.open(str(path), map_size=1 << 30, lock=False)
    with env.begin(write=True) as txn:
        for i in range(ROWS):
            txn.put(b"%016d" % i, VALUE)

    def commit(i: int) -> None:
        with env.begin(write=True) as txn:
            txn.put(b"%016d" % (ROWS + i), VALUE)

    return commit


def journal_record(path: Path) -> Callable[[int], None]:
    """One record more in the journal of a store."""
    path.mkdir()
    journal = Journal(path, sync=True)
    journal.create()

    def append(_: int) -> None:
        journal.append(VALUE)

    return append


def measure(
    make: Callable[[Path], Callable[[int], None]],
    path: Path,
    barrier: multiprocessing.synchronize.Barrier,
    results: multiprocessing.SimpleQueue[float],
) -> None:
    """Commit in step with the others; the median time, in milliseconds."""
    commit = make(path)
    times = []
    for i in range(COMMITS):
        barrier.wait()
        began = time.perf_counter()
        commit(i)
        times.append(time.perf_counter() - began)
    results.put(statistics.median(times) * 1e3)


def main(directory: str) -> None:
    """Print a line per kind and number of processes."""
    for make in (journal_record, lmdb_commit):
        for processes in (1, 3):
            with tempfile.TemporaryDirectory(dir=directory) as base:
                barrier = multiprocessing.Barrier(processes)
                results: multiprocessing.SimpleQueue[float] = multiprocessing.SimpleQueue()
                running = [
                    multiprocessing.Process(
                        target=measure, args=(make, Path(base) / str(i), barrier, results)
                    )
                    for i in range(processes)
                ]
                for p in running:
                    p.start()
                slowest = max(results.get() for _ in running)
                for p in running:
                    p.join()
            print(f"{make.__name__:14} {processes} at once: {slowest:.3f} ms")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".")
