"""Real processes: servers, replicas started by the command, kills, and nothing lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cluster_fixture import ProcessCluster, free_port
from sequential_objects import KeyValueStore
from wormspace.errors import WormError
from wormspace.sim import History, check
from wormspace.sim.linearizability import Outcome
from wormspace.smr import KeyValue, attach

pytestmark = pytest.mark.processes

ELECTION_S = 1.0


@pytest.fixture
def cluster(tmp_path):
    running = ProcessCluster(tmp_path / "cluster")
    running.start()
    yield running
    running.close()


class Replicas:
    """Replicas as `wormspace kv serve` makes them."""

    def __init__(self, cluster, base):
        self.cluster = cluster
        self.base = base
        self.ports = {f"r{i}": free_port() for i in (1, 2, 3)}
        self.processes = {}
        for name in self.ports:
            self.start(name)

    def start(self, name):
        with (self.base / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [
                    sys.executable, "-m", "wormspace.cli", "kv", "serve",
                    "--url", self.cluster.url, "--json", "--replica", name,
                    "--port", str(self.ports[name]), "--election", str(ELECTION_S),
                    "--snapshots", str(self.base / name),
                ],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert json.loads(self.processes[name].stdout.readline())["replica"] == name

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()
        self.processes[name].stdout.close()

    def close(self):
        for process in self.processes.values():
            process.kill()
            process.wait()
            process.stdout.close()

    @property
    def addresses(self):
        return [("127.0.0.1", port) for port in self.ports.values()]


@pytest.fixture
def replicas(cluster, tmp_path):
    running = Replicas(cluster, tmp_path)
    yield running
    running.close()


def command(cluster, *arguments):
    environment = {**os.environ, "WORMSPACE_URL": cluster.url}
    return subprocess.run(
        [sys.executable, "-m", "wormspace.cli", "kv", *arguments],
        capture_output=True, text=True, env=environment, timeout=30, check=False,
    )  # fmt: skip


def test_the_command_reads_and_writes_the_store(cluster, replicas):
    assert command(cluster, "put", "colour", "green").returncode == 0
    assert command(cluster, "get", "colour").stdout == "green"
    assert command(cluster, "get", "nothing").returncode == 1
    assert command(cluster, "cas", "colour", "red", "--expect", "blue").returncode == 3
    assert command(cluster, "cas", "colour", "red", "--expect", "green").returncode == 0
    assert command(cluster, "put", "code", "7", "--ttl", "4").returncode == 0
    lines = command(cluster, "scan", "--prefix", "co", "--json").stdout.splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["code", "colour"]
    time.sleep(4)
    assert command(cluster, "get", "code").returncode == 1
    replica = f"127.0.0.1:{replicas.ports['r2']}"
    assert command(cluster, "delete", "colour", "--replicas", replica).returncode == 0
    assert command(cluster, "delete", "colour").returncode == 1
    assert command(cluster, "cas", "colour", "red").returncode == 2


async def test_nothing_acknowledged_is_lost_when_processes_are_killed(cluster, replicas):
    history = History()
    names = list(replicas.ports)
    outages = []
    stopping = False

    async def work(number):
        async with await attach(KeyValue, "kv", replicas.addresses, timeout=5.0) as store:
            last = time.monotonic()
            life = 0
            n = 0
            while not stopping:
                n += 1
                value = f"{number}.{n}".encode()
                client = f"{number}/{life}"
                key = "ab"[n % 2]
                asked = [("put", key, value), ("get", key), ("cas", key, None, value)][n % 3]
                call = history.call(client, asked)
                try:
                    result = await getattr(store, asked[0])(*asked[1:])
                except WormError:
                    life += 1
                    continue
                history.ret(call, "ok" if asked[0] == "put" else result)
                outages.append(time.monotonic() - last)
                last = time.monotonic()
                await asyncio.sleep(0.01)

    workers = [asyncio.ensure_future(work(i)) for i in range(2)]
    await asyncio.sleep(1)
    for name in names[:2]:
        await asyncio.to_thread(replicas.kill, name)
        await asyncio.sleep(2.5)
        await asyncio.to_thread(replicas.start, name)
        await asyncio.sleep(0.5)
    cluster.kill("s2")
    await asyncio.sleep(1)
    stopping = True
    await asyncio.gather(*workers)
    assert len(history.operations()) > 100
    verdict = check(KeyValueStore(), history.operations())
    assert verdict.outcome is Outcome.OK, verdict.explanation
    assert max(outages) < 2 * ELECTION_S + 1.0, "beyond the promise, with room for a busy machine"


def test_a_replica_ends_well_when_it_is_told_to(cluster, replicas):
    process = replicas.processes["r3"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_the_command_needs_no_servers_where_the_space_is_a_directory(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [
                sys.executable, "-m", "wormspace.cli", "kv", *arguments,
                "--url", f"file:{tmp_path / 'store'}",
            ],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    assert run("put", "colour", "green").returncode == 0
    assert run("get", "colour").stdout == "green"
    assert json.loads(run("get", "colour", "--json").stdout)["revision"] == 1
