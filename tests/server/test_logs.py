"""The log's lines: one JSON object each, and a word even where there is no memory for a line."""

import io
import json
import logging
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from cluster_fixture import ProcessCluster
from wormspace.server.logs import NO_MEMORY, RESERVE_BYTES, Lines, log_to_stderr

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


def test_a_line_says_when_who_and_what() -> None:
    stream = io.StringIO()
    record = logging.LogRecord("wormspace.x", logging.WARNING, "f", 1, "%d rows", (7,), None)
    record.created, record.msecs = 1_000_000_000.0625, 62.5
    record.server = Path("s1")
    try:
        raise KeyError("lost")
    except KeyError:
        record.exc_info = sys.exc_info()
    Lines(stream).emit(record)
    [line] = lines(stream.getvalue())
    assert line.pop("error").splitlines()[-1] == "KeyError: 'lost'"
    assert line == {
        "time": "2001-09-09T01:46:40.062Z",
        "level": "warning",
        "logger": "wormspace.x",
        "event": "7 rows",
        "server": "s1",
    }


def test_a_line_does_not_wait_for_the_next_one() -> None:
    raw = io.BytesIO()
    handler = Lines(io.TextIOWrapper(io.BufferedWriter(raw)))
    handler.emit(logging.LogRecord("wormspace", logging.INFO, "f", 1, "now", (), None))
    assert [line["event"] for line in lines(raw.getvalue().decode())] == ["now"]


def test_what_is_held_back_for_a_line_is_let_go_and_held_again() -> None:
    class Short(io.StringIO):
        """Has no memory so many times."""

        def __init__(self, times, fd):
            super().__init__()
            self.times, self.fd = times, fd

        def write(self, text):
            if self.times:
                self.times -= 1
                raise MemoryError
            return super().write(text)

        def fileno(self):
            return self.fd

    def record(text):
        return logging.LogRecord("wormspace", logging.ERROR, "f", 1, text, (), None)

    with tempfile.TemporaryFile() as raw:
        for times, events, reserve in ((0, ["a"], RESERVE_BYTES), (1, ["a"], 0), (2, [], 0)):
            stream = Short(times, raw.fileno())
            handler = Lines(stream)
            assert len(handler._reserve) == RESERVE_BYTES
            held = handler._reserve
            handler.emit(record("a"))
            assert (handler._reserve is held) == (times == 0)
            assert [line["event"] for line in lines(stream.getvalue())] == events
            assert len(handler._reserve) == reserve
            handler.emit(record("b"))
            assert [line["event"] for line in lines(stream.getvalue())] == [*events, "b"]
            assert len(handler._reserve) == RESERVE_BYTES
        raw.seek(0)
        assert raw.read() == NO_MEMORY
    handler.stream = Short(2, -1)  # nor is there anywhere to say so
    handler.emit(record("c"))


@pytest.mark.parametrize("level", ["debug", "error"])
def test_loggers_of_others_write_warnings_to_the_same_lines(level, monkeypatch) -> None:
    names = ("wormspace", "asyncio", "py.warnings")
    loggers = [logging.getLogger(name) for name in names]
    before = [(one.level, list(one.handlers)) for one in loggers]
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "__stderr__", None)
    try:
        with warnings.catch_warnings():
            log_to_stderr(level)
            assert [one.level for one in loggers] == [
                getattr(logging, level.upper()), logging.WARNING, logging.WARNING,
            ]  # fmt: skip
            for one in loggers:
                one.info("info")
                one.error("error")
            logging.captureWarnings(False)
    finally:
        for one, (was, handlers) in zip(loggers, before, strict=True):
            one.handlers = handlers
            one.setLevel(was)
    said = [(line["logger"], line["event"]) for line in lines(stream.getvalue())]
    errors = [(name, "error") for name in names]
    assert said == ([("wormspace", "info")] if level == "debug" else []) + errors


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
