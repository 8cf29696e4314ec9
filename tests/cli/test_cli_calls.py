"""Every call of the API from the command line, over an embedded address space."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import Command

from wormspace.knobs import turned


def test_alloc_prints_the_segment_and_check_what_it_is_for(worm: Command) -> None:
    assert worm.ok("alloc", "orders", "first", "--size", "4") == "orders/0\n"
    assert worm.ok("alloc", "orders", "-", stdin=b"\xffraw") == "orders/1\n"
    assert worm.ok("check", "orders/0") == "first\n"
    assert worm.ok("check", "orders/1") == "\\xffraw\n"
    assert worm.json("check", "orders/0") == {
        "space": "orders",
        "segment": 0,
        "size": 4,
        "metadata": {"text": "first"},
    }
    assert worm.json("check", "orders/1")["metadata"] == {"base64": "/3Jhdw=="}


def test_tail_head_and_spaces(worm: Command) -> None:
    for _ in range(3):
        worm.ok("alloc", "orders")
    worm.ok("alloc", "a/b")
    assert worm.ok("tail", "orders") == "3\n"
    assert worm.ok("head", "orders") == "0\n"
    worm.ok("trim-prefix", "orders", "2")
    assert worm.ok("head", "orders") == "2\n"
    assert worm.json("tail", "orders") == {"space": "orders", "tail": 3}
    assert worm.ok("spaces") == "a/b\norders\n"
    assert worm.json("spaces") == {"spaces": ["a/b", "orders"]}


def test_a_space_whose_name_has_slashes(worm: Command) -> None:
    assert worm.ok("alloc", "tx/1/2") == "tx/1/2/0\n"
    assert worm.ok("check", "tx/1/2/0") == "\n"


def test_capture_write_and_read_one_register(worm: Command, segment: str) -> None:
    token = worm.token(segment)
    worm.ok("write", segment, "3", "hello", "--token", token)
    assert worm.ok("read", segment, "3") == "hello"


def test_the_same_write_again_is_safe(worm: Command, segment: str) -> None:
    token = worm.token(segment)
    for _ in range(2):
        worm.ok("write", segment, "0", "same", "--token", token)


def test_one_register_goes_to_a_pipe_byte_by_byte(worm: Command, segment: str) -> None:
    value = bytes(range(256)) + b"\r\n"
    worm.ok("write", segment, "0", "-", "--unsafe", stdin=value)
    result = worm("read", segment, "0")
    assert result.stdout_bytes == value


def test_several_values_go_to_consecutive_registers(worm: Command, segment: str) -> None:
    worm.ok("write", segment, "2", "a", "b", "c", "--token", worm.token(segment, "2:5"))
    assert worm.json("read", segment, "1:")["registers"] == [
        {"offset": 2, "value": {"text": "a"}},
        {"offset": 3, "value": {"text": "b"}},
        {"offset": 4, "value": {"text": "c"}},
    ]
    shown = worm.ok("read", segment)
    assert [line.split() for line in shown.splitlines()[1:]] == [["2", "a"], ["3", "b"], ["4", "c"]]


def test_an_empty_register_prints_nothing_and_says_so(worm: Command, segment: str) -> None:
    result = worm("read", segment, "0")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "empty\n")
    assert worm.json("read", segment, "0")["registers"] == []


def test_values_cannot_upset_a_terminal(worm: Command, segment: str) -> None:
    worm.ok("write", segment, "0", "red \x1b[31m \\ [bold]é", "--unsafe")
    worm.ok("write", segment, "1", "-", "--unsafe", stdin=b"\xff\n ok")
    shown = worm.ok("read", segment)
    assert "red \\x1b[31m \\\\ [bold]é" in shown
    assert "\\xff\\x0a ok" in shown


def test_capture_in_json_says_what_is_written(worm: Command, segment: str) -> None:
    worm.ok("write", segment, "1", "here", "--unsafe")
    captured = worm.json("capture", segment, "0:4")
    assert captured["written"] == [{"offset": 1, "value": {"text": "here"}}]
    assert (captured["start"], captured["stop"]) == (0, 4)
    worm.ok("write", segment, "0", "x", "--token", captured["token"])


def test_settle_decides_a_register_one_way_or_the_other(worm: Command, segment: str) -> None:
    token = worm.token(segment)
    worm.ok("write", segment, "0", "done", "--token", token)
    assert worm.ok("settle", segment, "0") == "done"
    assert worm.ok("settle", segment, "1", "nobody came") == "nobody came"
    assert worm.json("settle", segment, "1")["value"] == {"text": "nobody came"}
    assert worm("write", segment, "1", "late", "--token", token).exit_code == 3


def test_holds_says_whether_a_capture_stands(worm: Command, segment: str) -> None:
    token = worm.token(segment)
    assert worm.ok("holds", segment, "0", "--token", token) == "yes\n"
    worm.token(segment, "0")
    result = worm("holds", segment, "0", "--token", token)
    assert (result.exit_code, result.stdout) == (3, "no\n")
    assert worm.json("holds", segment, "1", "--token", token)["holds"] is True


def test_status_of_an_embedded_space(worm: Command, segment: str) -> None:
    token = worm.token(segment)
    worm.ok("write", segment, "2", "seen", "--token", token)
    assert worm.json("status")["works"] is True
    found = worm.json("status", segment)
    assert (found["size"], found["metadata"]) == (8, {"text": "what it is for"})
    assert [(r["start"], r["stop"]) for r in found["registers"]] == [(0, 2), (2, 3), (3, 8)]
    (held,) = found["registers"][1]["servers"].values()
    assert held["value"] == {"text": "seen"}
    assert held["promised"] == held["accepted"]
    shown = worm.ok("status", segment, "2:4")
    assert "seen" in shown
    assert "0:2" not in shown


def test_status_of_a_long_range_comes_in_pieces(worm: Command, segment: str) -> None:
    token = worm.token(segment)
    worm.ok("write", segment, "4", "seen", "--token", token)
    with turned(cli_status_registers=3):
        pieces = worm.ok("--json", "status", segment, "0:").splitlines()
        shown = worm.ok("status", segment, "0:")
    found = [run for piece in pieces for run in json.loads(piece)["registers"]]
    assert [(run["start"], run["stop"]) for run in found] == [
        (0, 3),
        (3, 4),
        (4, 5),
        (5, 6),
        (6, 8),
    ]
    assert shown.count("register") == len(pieces) == 3
    assert shown.count("seen") == 1
    beyond = worm("status", segment, "8")
    assert beyond.exit_code == 2
    assert "has registers 0 to 7, not 8" in beyond.stderr


def test_options_may_stand_after_the_command(tmp_path: Path, worm: Command) -> None:
    assert worm.ok("alloc", "orders") == "orders/0\n"
    assert json.loads(worm.ok("tail", "orders", "--json")) == {"space": "orders", "tail": 1}
    other = worm("tail", "orders", "--url", f"file:{tmp_path / 'other'}")
    assert other.stdout == "0\n"


def test_the_url_may_come_from_the_environment(
    worm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from wormspace.cli.app import cli

    worm.ok("alloc", "orders")
    monkeypatch.setenv("WORMSPACE_URL", worm.url)
    assert CliRunner().invoke(cli, ["tail", "orders"]).stdout == "1\n"


def test_listen_tells_history_and_ends_with_control_c(worm: Command, segment: str) -> None:
    worm.ok("write", segment, "1", "-", "--unsafe", stdin=b"\xff")
    command = [sys.executable, "-m", "wormspace.cli", "--url", worm.url, "--json"]
    with subprocess.Popen([*command, "listen", "orders"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert events == [
        {
            "event": "allocated",
            "space": "orders",
            "segment": 0,
            "size": 8,
            "metadata": {"text": "what it is for"},
        },
        {
            "event": "written",
            "space": "orders",
            "segment": 0,
            "offset": 1,
            "value": {"base64": "/w=="},
        },
    ]


def test_a_reader_that_has_enough_is_no_error(worm: Command, segment: str) -> None:
    worm.ok("write", segment, "0", "x", "--unsafe")
    command = [sys.executable, "-m", "wormspace.cli", "--url", worm.url, "read", segment]
    r, w = os.pipe()
    os.close(r)
    done = subprocess.run(command, stdout=w, stderr=subprocess.PIPE, check=False)
    os.close(w)
    assert b"Traceback" not in done.stderr
