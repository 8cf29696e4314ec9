"""Sequencers inside wormservers: `wormspace server --sequence`, `wormspace up --sequence`."""

import json
import signal
import subprocess
import sys

import pytest

import wormspace
from cluster_fixture import free_port
from wormspace.cli.layout import create, plan
from wormspace.cli.processes import LocalCluster

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("log-kills")]


@pytest.fixture
def plan_here(tmp_path):
    """A cluster of three in a directory, that does not run yet."""
    config = plan(3, ports=[free_port() for _ in range(3)])
    return config, create(config, tmp_path)


async def test_appends_go_on_whichever_server_is_killed(plan_here):
    config, file = plan_here
    cluster = LocalCluster(file, config, ["orders"])
    try:
        await cluster.start()
        async with wormspace.connect(config.url) as worm:
            log = await worm.log("orders", sequencer="elsewhere")
            for n, process in enumerate(cluster.processes):
                assert await log.append(f"before {n}".encode(), timeout=30) == 2 * n
                process.kill()
                assert await log.append(f"after {n}".encode(), timeout=30) == 2 * n + 1
                process.start()
                await cluster.wait_until_reachable()
            assert len(await log.read_range(0)) == 6
    finally:
        cluster.stop()


@pytest.fixture
def up(plan_here):
    """A running `wormspace up --sequence orders`; its URL."""
    _, file = plan_here
    command = [sys.executable, "-m", "wormspace.cli", "up", "--json", "--dir", str(file.parent)]
    with subprocess.Popen([*command, "--sequence", "orders"], stdout=subprocess.PIPE) as process:
        yield json.loads(process.stdout.readline())["url"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


async def test_a_local_cluster_sequences_what_it_is_told_to(up):
    async with wormspace.connect(up) as worm:
        log = await worm.log("orders", sequencer="elsewhere")
        assert await log.append(b"a", timeout=30) == 0
