"""The command, and the client, where they run: odd terminals, signals, other systems."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.test_cli_up import Up

pytestmark = pytest.mark.processes
COMMAND = [sys.executable, "-m", "wormspace.cli"]


def run(*words: str, encoding: str = "utf-8", **options: object) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    return subprocess.run(
        [*COMMAND, *words], env=env, capture_output=True, timeout=60, check=False, **options
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_value_can_be_shown_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    url = f"file:{tmp_path / 'state'}"
    for words in (
        ("alloc", "spåce", "größe ☃"),
        ("write", "spåce/0", "0", "☃" * 100, "--unsafe"),
        ("read", "spåce/0"),
        ("status", "spåce/0"),
        ("check", "spåce/0"),
        ("listen", "spåce", "--help"),
    ):
        done = run("--url", url, *words, encoding=encoding)
        assert done.returncode == 0, done.stderr
        done.stdout.decode(encoding)
    assert b"known to be decided" in run("--url", url, "status", "spåce/0", encoding="ascii").stderr


@pytest.mark.parametrize("words", [("listen", "s"), ("log", "sequencer", "orders")])
def test_sigterm_ends_what_runs_until_it_is_stopped(words: tuple[str, ...], tmp_path: Path) -> None:
    """Also as the first process of a container, for which no signal has a default."""
    up = Up(tmp_path)
    command = [*COMMAND, "--url", up.announced["url"], *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline()  # it says that it has begun
        status = Path(f"/proc/{process.pid}/status").read_text()
        handled = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        assert int(handled.split()[1], 16) >> (signal.SIGTERM - 1) & 1
        process.terminate()
        assert process.wait(30) == 0
    assert up.end() == 0


def test_servers_of_up_end_when_it_is_killed(tmp_path: Path) -> None:
    up = Up(tmp_path)
    pids = [server["pid"] for server in up.announced["servers"]]
    up.end(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "they live on"
        time.sleep(0.05)


ELSEWHERE = """
import sys
for name in ("fcntl", "uvloop", "resource", "pwd", "grp"):
    sys.modules[name] = None
import asyncio, json
import wormspace, wormspace.sync, wormspace.cli.app
sys.platform = "win32"
async def main():
    async with wormspace.connect("memory:") as worm:
        segment = await worm.space("s").alloc(size=1)
        await segment.unsafe_write(0, b"v")
        read = (await segment.read(0)).decode()
    try:
        await wormspace.connect("file:nowhere")
    except wormspace.StoreError as e:
        print(json.dumps([read, str(e)]))
asyncio.run(main())
"""


def test_a_client_needs_neither_linux_nor_macos() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    read, refusal = json.loads(done.stdout)
    assert read == "v"
    assert "file: needs Linux or macOS" in refusal
