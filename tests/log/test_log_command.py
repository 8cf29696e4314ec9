"""`wormspace log` as a Unix tool: lines in, lines out, exit codes."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from test_log_damage import write_over

import wormspace


def run(url, *arguments, given=""):
    return subprocess.run(
        [sys.executable, "-m", "wormspace.cli", "--url", url, "log", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def log_url(tmp_path):
    return f"file:{tmp_path / 's'}"


@pytest.fixture
def log(log_url):
    def ok(*arguments, given="", code=0):
        done = run(log_url, *arguments, given=given)
        assert done.returncode == code, done.stderr
        return done.stdout

    return ok


def test_lines_go_in_and_come_out(log):
    assert log("append", "orders", given="one\ntwo\nthree\n") == "0\n1\n2\n"
    assert log("append", "orders", "four", "--header", "by=ann", "--stream", "s") == "3\n"
    assert log("read", "orders") == "one\ntwo\nthree\nfour\n"
    assert log("read", "orders", "1") == "two\n"
    assert log("read", "orders", "1:3") == "two\nthree\n"
    assert log("tail", "orders", "-n", "2") == "three\nfour\n"
    assert log("read", "orders", "--stream", "s") == "four\n"
    entry = json.loads(log("read", "orders", "3", "--json"))
    assert entry["position"] == 3
    assert entry["headers"] == {"by": "ann"}
    assert entry["streams"] == ["s"]


def test_ten_thousand_lines_keep_their_order(log):
    lines = "".join(f"{i}\n" for i in range(10_000))
    assert log("append", "orders", given=lines) == lines
    assert log("read", "orders") == lines


def test_trimming_is_said_and_what_is_gone_is_exit_5(log):
    log("append", "orders", given="x\n" * 100)
    assert json.loads(log("trim", "orders", "40", "--json")) == {"log": "orders", "first": 40}
    log("read", "orders", "3", code=5)
    log("read", "orders", "100", code=2)
    log("trim", "orders", code=2)
    assert json.loads(log("trim", "orders", "--larger", "10", "--json"))["first"] == 90
    found = json.loads(log("info", "orders", "--json"))
    assert (found["first"], found["tail"], found["bytes"]) == (90, 100, 10)


def test_what_was_trimmed_is_told_with_the_first_position_that_is_there(log_url):
    run(log_url, "append", "orders", given="x\n" * 10)
    run(log_url, "trim", "orders", "4")
    said = run(log_url, "read", "orders", "3", "--json").stderr
    told = json.loads(said.splitlines()[-1])
    assert (told["error"], told["exit"], told["first"]) == ("LogTrimmed", 5, 4)


def test_a_long_append_shows_how_far_it_is_on_a_terminal(log_url, tmp_path):
    lines = b"".join(b"%d\n" % i for i in range(20_000))
    (tmp_path / "in").write_bytes(lines)
    terminal, other_end = os.openpty()
    command = [sys.executable, "-m", "wormspace.cli", "--url", log_url, "log", "append", "orders"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with (tmp_path / "in").open() as given, (tmp_path / "out").open("w") as taken:
        process = subprocess.Popen(
            command, stdin=given, stdout=taken, stderr=other_end, env=environment
        )
    os.close(other_end)
    shown = b""
    while chunk := read_some(terminal):
        shown += chunk
    os.close(terminal)
    assert process.wait(60) == 0
    assert (tmp_path / "out").read_bytes() == lines
    assert b"appended" in shown


def read_some(terminal):
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end is closed, and all is read
        return b""


def test_streams_are_listed(log):
    log("append", "orders", "x", "--stream", "a", "--stream", "b")
    assert json.loads(log("streams", "orders", "--json"))["streams"] == {"a": 0, "b": 0}


def test_what_is_damaged_is_said_and_passed_over(log, log_url):
    log("append", "orders", "zero", "--stream", "s")

    async def damage():
        async with wormspace.connect(log_url) as worm:
            await write_over(await worm.log("orders"), b"garbage")

    asyncio.run(damage())
    log("append", "orders", given="two\nthree\n")
    for command in (("read", "orders"), ("tail", "orders", "-n", "5")):
        done = run(log_url, *command)
        assert (done.returncode, done.stdout) == (0, "zero\ntwo\nthree\n")
        if "garbage" in done.stderr or "cannot be read" in done.stderr:
            assert "go on from position" in done.stderr


def test_a_log_is_not_opened_over_something_else(log, log_url):
    async def alloc():
        async with wormspace.connect(log_url) as worm:
            await worm.space("mine").alloc(b"what it is for")

    asyncio.run(alloc())
    done = run(log_url, "append", "mine", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the user's own making" in done.stderr
    log("append", "orders/config", "x", code=2)
