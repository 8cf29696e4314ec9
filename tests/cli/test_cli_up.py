"""`wormspace up`: real processes, from the first line to the last."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import Command

from wormspace.cli.layout import create, plan
from wormspace.cli.settings import CLUSTER_FILE
from wormspace.server.config import load
from wormspace.server.runner import open_engine

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("up")]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Up:
    """A running `wormspace up --json`."""

    def __init__(self, directory: Path) -> None:
        create(plan(3, ports=free_ports(3)), directory)
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wormspace.cli", "up", "--json", "--dir", str(directory)],
            stdout=subprocess.PIPE,
        )
        self.announced = self.event()

    def event(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def pid(self, name: str) -> int:
        return next(s["pid"] for s in self.announced["servers"] if s["name"] == name)

    def end(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(30)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    yield running
    running.end()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_up_serves_shows_who_dies_and_stops_all(up: Up) -> None:
    worm = Command(up.announced["url"])
    segment = worm.ok("alloc", "orders", "--size", "8").strip()
    token = worm.token(segment)
    worm.ok("write", segment, "0", "kept", "--token", token)
    assert all(s["reachable"] for s in worm.json("status")["servers"])

    os.kill(up.pid("s2"), signal.SIGKILL)
    assert up.event() == {"event": "lost", "server": "s2"}
    worm.ok("write", segment, "1", "with one down", "--token", token)
    status = worm.json("status")
    assert status["works"]
    assert [s["reachable"] for s in status["servers"]] == [True, False, True]
    held = worm.json("status", segment)
    assert len(held["silent"]) == 1

    os.kill(up.pid("s1"), signal.SIGKILL)
    assert up.event() == {"event": "lost", "server": "s1"}
    assert worm("write", segment, "2", "v", "--token", token, timeout="1").exit_code == 4
    alone = worm("--json", "status", segment, timeout="1")
    assert alone.exit_code == 4
    assert json.loads(alone.stdout)["size"] == 8

    assert up.end(signal.SIGINT) == 0
    assert not any(is_alive(s["pid"]) for s in up.announced["servers"])


def test_a_client_of_another_cluster_is_refused(up: Up) -> None:
    url, _, _ = up.announced["url"].partition("?")
    result = Command(f"{url}?cluster=another")("spaces")
    assert result.exit_code == 6
    assert "not of 'another'" in result.stderr


def test_listen_follows_what_others_write(up: Up) -> None:
    worm = Command(up.announced["url"])
    command = [sys.executable, "-m", "wormspace.cli", "--url", worm.url, "listen", "orders"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        segment = worm.ok("alloc", "orders", "live", "--size", "4").strip()
        assert listener.stdout.readline() == "orders/0  allocated, 4 registers: live\n"
        worm.ok("write", segment, "1", "news", "--unsafe")
        assert listener.stdout.readline() == "orders/0/1  news\n"
        worm.ok("trim", segment)
        assert listener.stdout.readline() == "orders/0  trimmed\n"
        listener.send_signal(signal.SIGINT)
        assert listener.wait(20) == 0


def test_the_cluster_in_the_current_directory_is_the_default(up: Up) -> None:
    command = [sys.executable, "-m", "wormspace.cli", "status", "--json"]
    done = subprocess.run(command, cwd=up.directory, capture_output=True, check=True)
    assert [s["name"] for s in json.loads(done.stdout)["servers"]] == ["s1", "s2", "s3"]


def test_a_cluster_runs_once(up: Up) -> None:
    command = [sys.executable, "-m", "wormspace.cli", "up", "--dir", str(up.directory)]
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 1
    assert "already running: s1, s2, s3" in again.stderr
    assert Command(up.announced["url"]).json("status")["works"]


def test_up_says_why_a_server_does_not_start_and_leaves_none_behind(tmp_path: Path) -> None:
    ports = free_ports(3)
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", ports[1]))
        squatter.listen()
        create(plan(3, ports=ports), tmp_path)
        command = [sys.executable, "-m", "wormspace.cli", "up", "--dir", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "server s2 did not start" in done.stderr
    assert "address already in use" in done.stderr
    # Nobody holds the stores any more.
    config = load(tmp_path / CLUSTER_FILE)
    for server in config.server:
        asyncio.run(open_engine(config, server, tmp_path)).close()


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    up = Up(tmp_path)
    worm = Command(up.announced["url"])
    segment = worm.ok("alloc", "orders").strip()
    worm.ok("write", segment, "0", "kept", "--unsafe")
    assert up.end() == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "wormspace.cli", "up", "--json", "--dir", str(tmp_path)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert worm.ok("read", segment, "0") == "kept"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert (tmp_path / CLUSTER_FILE).exists()
