"""Each exit code, met the way a script meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.cli.command import Command

from wormspace.cli.app import cli
from wormspace.cli.exits import exit_code
from wormspace.cli.layout import create, plan
from wormspace.errors import (
    CaptureLost,
    Closed,
    PartialWrite,
    ProtocolViolation,
    Refused,
    ServerFull,
    StoreLocked,
    Trimmed,
)

NOBODY = "worm://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"


def test_0_done(worm: Command) -> None:
    assert worm("tail", "orders").exit_code == 0


def test_1_a_broken_promise(worm: Command, segment: str) -> None:
    worm.ok("write", segment, "0", "one", "--unsafe")
    result = worm("write", segment, "0", "two", "--unsafe")
    assert result.exit_code == 1
    assert "same unsafe ballot" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["check", "orders/7"],
        ["read", "orders"],
        ["read", "orders/0", "x"],
        ["read", "orders/0", "5:9"],
        ["write", "orders/0", "0", "v"],
        ["write", "orders/0", "0", "v", "--unsafe", "--token", "nonsense"],
        ["write", "orders/0", "0", "a", "b", "--unsafe"],
        ["listen", "orders", "--from", "x"],
        ["no-such-command"],
        ["--url", "nonsense:", "spaces"],
        ["--timeout", "0", "spaces"],
    ],
)
def test_2_misuse(worm: Command, segment: str, words: list[str]) -> None:
    result = worm(*words)
    assert result.exit_code == 2
    assert result.stderr


def test_2_a_token_that_does_not_cover_the_register(worm: Command, segment: str) -> None:
    token = worm.token(segment, "3")
    assert worm("write", segment, "0", "v", "--token", token).exit_code == 2


def test_2_another_value_under_one_token(worm: Command, segment: str) -> None:
    token = worm.token(segment, "0")
    worm.ok("write", segment, "0", "one", "--token", token)
    result = worm("write", segment, "0", "two", "--token", token)
    assert result.exit_code == 2
    assert "same capture token" in result.stderr
    assert worm("write", segment, "0", "one", "--token", token).exit_code == 0


def test_2_no_url_and_no_cluster_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["spaces"])
    assert result.exit_code == 2
    assert "wormspace up" in result.stderr


def test_3_the_capture_was_stolen(worm: Command, segment: str) -> None:
    mine = worm.token(segment)
    worm.token(segment, "0")
    result = worm("write", segment, "0", "v", "--token", mine)
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1


def test_3_the_register_holds_another_value(worm: Command, segment: str) -> None:
    worm.ok("write", segment, "0", "first", "--unsafe")
    result = worm("--json", "write", segment, "0", "second", "--token", worm.token(segment))
    assert result.exit_code == 3
    error = json.loads(result.stderr.splitlines()[-1])
    assert (error["error"], error["exit"]) == ("AlreadyWritten", 3)
    assert error["value"] == {"text": "first"}


def test_3_a_partial_write_ends_as_its_first_failure(worm: Command, segment: str) -> None:
    mine = worm.token(segment)
    worm.token(segment, "1")
    result = worm("--json", "write", segment, "0", "a", "b", "--token", mine)
    assert result.exit_code == 3
    error = json.loads(result.stderr.splitlines()[-1])
    assert error["results"] == [None, "CaptureLost"]
    assert worm.ok("read", segment, "0") == "a"


def test_4_nobody_there() -> None:
    result = Command(NOBODY)("tail", "orders", timeout="0.3")
    assert result.exit_code == 4
    assert "Connection refused" in result.stderr


def test_4_status_still_shows_who_is_there() -> None:
    result = Command(NOBODY)("--json", "status", timeout="0.3")
    assert result.exit_code == 4
    states = json.loads(result.stdout)
    assert not states["works"]
    assert [s["reachable"] for s in states["servers"]] == [False] * 3


def test_5_trimmed(worm: Command, segment: str) -> None:
    worm.ok("trim", segment)
    for words in (["read", segment, "0"], ["check", segment], ["status", segment]):
        assert worm(*words).exit_code == 5


def test_6_a_store_of_somebody_else(tmp_path: Path) -> None:
    config = plan(3)
    create(config, tmp_path)
    result = Command(f"file:{tmp_path / config.server[0].data}")("spaces")
    assert result.exit_code == 6
    assert "belongs to server 's1'" in result.stderr


def test_6_a_store_that_is_open_elsewhere(tmp_path: Path) -> None:
    holder = (
        "import asyncio, wormspace\n"
        "async def main():\n"
        f"    async with wormspace.connect({f'file:{tmp_path}'!r}):\n"
        "        print('open', flush=True); input()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", holder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        result = Command(f"file:{tmp_path}")("spaces")
        process.communicate(b"\n")
    assert result.exit_code == 6
    assert "open already, in another process" in result.stderr


def test_the_codes_of_what_is_hard_to_provoke() -> None:
    assert exit_code(ServerFull("")) == 4
    assert exit_code(Refused("")) == 6
    assert exit_code(StoreLocked("")) == 6
    assert exit_code(ProtocolViolation("")) == 1
    assert exit_code(Closed("")) == 1
    assert exit_code(OSError("")) == 1
    assert exit_code(PartialWrite("", [None, Trimmed(""), CaptureLost("")])) == 5


def test_misuse_in_json(worm: Command) -> None:
    result = worm("--json", "read", "orders")
    error = json.loads(result.stderr.splitlines()[-1])
    assert (error["error"], error["exit"]) == ("UsageError", 2)


def test_without_click_it_says_what_to_install() -> None:
    blocked = "import sys; sys.modules['click'] = None\nfrom wormspace.cli import main\nmain()\n"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"pip install 'wormspace[cli]'" in done.stderr
    assert b"Traceback" not in done.stderr
