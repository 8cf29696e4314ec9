"""How a server's process begins and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_fixture import ProcessCluster

pytestmark = pytest.mark.processes


def test_a_server_that_a_signal_ends_says_which(tmp_path: Path) -> None:
    """A mapped file that was cut short is a SIGBUS, a library without memory a SIGABRT."""
    cluster = ProcessCluster(tmp_path, (1,)).start()
    try:
        cluster.running["s1"].send_signal(signal.SIGBUS)
        cluster.running["s1"].wait(30)
        assert "Fatal Python error: Bus error" in cluster.log_of("s1")
    finally:
        cluster.close()


def test_a_server_loads_no_application() -> None:
    """Its start would take twice as long."""
    program = "import sys, wormspace.server.runner; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    modules = set(loaded.stdout.split())
    assert "wormspace.server.node" in modules, loaded.stderr
    assert not modules & {"wormspace.log", "wormspace.smr", "wormspace.tx"}
