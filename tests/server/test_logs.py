"""The log's lines: one JSON object each, and a word even where there is no memory for a line."""

import io
import json
import logging
import signal
import subprocess
import sys

import pytest

from cluster_fixture import ProcessCluster
from wormspace.server.logs import NO_MEMORY, Lines

WITHOUT_MEMORY = """
import logging, resource
from pathlib import Path
from wormspace.server.logs import log_to_stderr

log_to_stderr("info")
log = logging.getLogger("wormspace.store")
try:
    raise OSError("disk")
except OSError as e:
    error = e
log.info("before")
large = "x" * SIZE
limit = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + (1 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
held, size = None, 1 << 20
while size >= 1024:
    try:
        held = bytes(size), held
    except MemoryError:
        size //= 2
log.critical("the store has failed: %s", large, exc_info=error)
log.critical("and is not to be trusted")
held = None
log.info("after")
"""


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def run(size):
    """The lines of a process that logs a message of that size without memory."""
    code = WITHOUT_MEMORY.replace("SIZE", str(size))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return lines(done.stderr)


def test_a_line_is_written_when_there_is_no_memory_left():
    said = run(3000)
    assert [line["event"][:9] for line in said] == ["before", "the store", "and is no", "after"]
    assert "OSError: disk" in said[1]["error"]


def test_what_is_too_large_for_the_reserve_is_told_of_all_the_same():
    said = run(800_000)
    assert json.loads(NO_MEMORY) in said
    assert said[-1]["event"] == "after"


def test_a_record_that_cannot_be_formatted_costs_nobody_anything(capsys):
    stream = io.StringIO()
    logger = logging.Logger("wormspace.test")
    logger.addHandler(Lines(stream))
    logger.error("%d of them", "many")
    logger.error("a line", extra={"space": "s", "count": 3})
    assert [(line["event"], line["count"]) for line in lines(stream.getvalue())] == [("a line", 3)]
    assert "many" in capsys.readouterr().err


@pytest.mark.processes
@pytest.mark.parametrize("module", ["wormspace.server", "wormspace.cli"])
def test_the_last_words_of_a_server_that_a_signal_ends_name_its_store(tmp_path, module):
    """As LMDB's assertions do."""
    cluster = ProcessCluster(tmp_path / "cluster", (1,))
    words = {
        "wormspace.server": [str(cluster.file), "s1"],
        "wormspace.cli": ["server", "s1", "--cluster", str(cluster.file)],
    }
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words[module]], stderr=subprocess.PIPE, text=True
    )
    assert "listening" in process.stderr.readline()
    process.send_signal(signal.SIGABRT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in said
    assert str(tmp_path / "cluster" / "s1") in said
    assert "docs/operations.md, 'Ended by a signal'" in said
