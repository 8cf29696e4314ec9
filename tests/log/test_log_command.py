"""`wormspace log` as a Unix tool: lines in, lines out, exit codes."""

import json
import subprocess
import sys

import pytest


@pytest.fixture
def log(tmp_path):
    url = f"file:{tmp_path / 's'}"

    def run(*arguments, given="", code=0):
        done = subprocess.run(
            [sys.executable, "-m", "wormspace.cli", "--url", url, "log", *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    return run


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


def test_streams_are_listed(log):
    log("append", "orders", "x", "--stream", "a", "--stream", "b")
    assert json.loads(log("streams", "orders", "--json"))["streams"] == {"a": 0, "b": 0}
