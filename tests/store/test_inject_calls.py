"""LMDB's calls of the system fail, and ours from below: strace makes the kernel refuse them.

A process takes rows through checkpoints and prints each one that was acknowledged.  Whatever call
of it fails, what opens afterwards has all of these.
"""

import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from wormspace.server.storage import AcceptorStore

STRACE = shutil.which("strace")
CALLS = "pwrite64,writev,pwritev2,fsync,fdatasync,ftruncate,mmap,munmap"

WORK = """
import asyncio, sys
from pathlib import Path
from wormspace.errors import StoreError
from wormspace.knobs import turned
from wormspace.server.storage import AcceptorStore

async def main():
    engine = AcceptorStore(Path(sys.argv[1]))
    for n in range(30):
        batch = engine.begin()
        batch.put("rows", b"%03d" % n, bytes(2000 if n != 20 else 1 << 20))
        batch.put_many("promises", [(b"%05d" % (20 * n + i), bytes(900)) for i in range(20)])
        await engine.commit(batch)
        print(n, flush=True)
        if n % 3 == 0 and engine._saving is not None:
            await engine._saving
    engine.close()

with turned(store_checkpoint_bytes=8000, store_map_bytes=1 << 18, store_inline_after=5):
    try:
        asyncio.run(main())
    except StoreError as e:
        print("told:", e)
"""


def run(path, *options):
    """Run the process under strace; the rows it acknowledged, whether it said why, the trace."""
    if STRACE is None:
        pytest.skip("strace is not installed (make databases installs it)")
    trace = path.with_suffix(".trace")
    command = [STRACE, "-f", "--seccomp-bpf", "-o", trace, *options]
    done = subprocess.run(
        [*command, sys.executable, "-c", WORK, path], capture_output=True, text=True, check=False
    )
    if "ptrace" in done.stderr:
        pytest.skip(f"strace cannot be used here: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    rows = [int(line) for line in lines if line.isdigit()]
    told = any(line.startswith("told:") for line in lines) or "closed without" in done.stderr
    return rows, told or done.returncode != 0, trace.read_text()


def check(path, rows):
    """All that was acknowledged is there, and at most the row under way."""
    again = AcceptorStore(path)
    found = [int(key) for key, _ in again.view.scan("rows", b"", b"\xff")]
    assert found in (rows, [*rows, len(rows)])
    again.close()


def moments(tmp_path):
    """How often a process makes each call on the files of its store."""
    rows, told, trace = run(tmp_path / "well", "-P", tmp_path / "well" / "data.mdb", "-e", CALLS)
    assert (len(rows), told) == (30, False)
    counts = Counter(re.findall(r"^\d+ +(\w+)\(", trace, re.M))
    _, _, trace = run(tmp_path / "well2", "-e", "pwritev2,fsync,fdatasync,ftruncate")
    return counts, Counter(re.findall(r"^\d+ +(\w+)\(", trace, re.M))


FAILURES = [
    *[("data.mdb", call, error) for call in ("pwrite64", "writev") for error in ("EIO", "ENOSPC")],
    ("data.mdb", "fdatasync", "EIO"),
    ("data.mdb", "mmap", "ENOMEM"),
    ("", "pwritev2", "EIO"),
    ("", "pwritev2", "ENOSPC"),
    ("", "fsync", "EIO"),
    ("", "fdatasync", "EIO"),
]


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    return moments(tmp_path_factory.mktemp("counts"))


def fail(tmp_path, counts, failure, whens):
    file, call, error = failure
    most = counts[0 if file else 1][call]
    assert most, f"the store does not call {call} any more: {counts}"
    told = 0
    for when in whens(most):
        path = tmp_path / f"store-{when}"
        only = ["-P", path / file] if file else []
        rows, said, _ = run(path, *only, "-e", f"inject={call}:error={error}:when={when}")
        told += said
        check(path, rows)
    return told


@pytest.mark.processes
@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: "-".join(filter(None, f)))
def test_a_call_that_the_kernel_refuses_loses_nothing(tmp_path, counts, failure):
    told = fail(tmp_path, counts, failure, lambda most: {max(1, most // 3), max(1, 2 * most // 3)})
    assert told or failure[2] == "ENOSPC"  # a checkpoint without room is made later


@pytest.mark.soak
@pytest.mark.processes
@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: "-".join(filter(None, f)))
def test_no_call_of_all_that_the_kernel_refuses_loses_anything(tmp_path, counts, failure):
    fail(tmp_path, counts, failure, lambda most: range(1, most + 1))
