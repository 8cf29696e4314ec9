"""`wormspace exporter` over real servers, one of which dies."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from click.testing import CliRunner

import wormspace.sync
from cluster_fixture import ProcessCluster
from wormspace.cli.app import cli
from wormspace.cli.exits import FAILED

pytestmark = pytest.mark.processes


def scrape(port: str) -> dict[str, float]:
    """Each sample by its name and labels, as Prometheus reads them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in lines}


def test_metrics_of_all_servers_and_who_is_down(tmp_path):
    cluster = ProcessCluster(tmp_path, (3,)).start()
    exporter = subprocess.Popen(
        [sys.executable, "-m", "wormspace.cli", "--url", cluster.url, "exporter", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port = re.search(r":(\d+)/metrics", exporter.stderr.readline()).group(1)
        with wormspace.sync.connect(cluster.url, timeout=20) as worm:
            worm.space("s").alloc(size=8).capture()
        samples = scrape(port)
        names = [f"127.0.0.1:{s.port}" for s in cluster.config.server]
        for name in names:
            labels = f'{{partition="0",server="{name}"}}'
            assert samples[f"wormspace_server_up{labels}"] == 1
            assert samples[f"wormspace_captures_total{labels}"] >= 1
            assert samples[f"wormspace_connections{labels}"] >= 1
        cluster.kill("s2")
        up = {k: v for k, v in scrape(port).items() if k.startswith("wormspace_server_up")}
        down = f'wormspace_server_up{{partition="0",server="{names[1]}"}}'
        assert up.pop(down) == 0
        assert list(up.values()) == [1, 1]
        exporter.send_signal(signal.SIGTERM)
        assert exporter.wait(20) == 0
    finally:
        exporter.kill()
        exporter.wait()
        cluster.close()


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(cli, ["--url", "memory:", "exporter", "--port", port])
    assert result.exit_code == FAILED
    assert "choose a --port" in result.output
