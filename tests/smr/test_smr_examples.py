"""The examples do what they say, with processes killed."""

import asyncio
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cluster_fixture import ProcessCluster, free_port

pytestmark = pytest.mark.processes

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def url(tmp_path):
    running = ProcessCluster(tmp_path / "cluster")
    running.start()
    yield running.url
    running.close()


@pytest.fixture
def start():
    processes = []

    def start_(script, *arguments):
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        return process

    yield start_
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def fetch(port, line=None):
    data = None if line is None else line.encode()
    for _ in range(50):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", data, timeout=15) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError(f"nobody answers at {port}")


def test_the_web_services_state_survives_an_instance(url, start):
    ports = [free_port() for _ in range(3)]
    instances = [start("web_counter.py", "--url", url, "--http", str(port)) for port in ports]
    assert fetch(ports[0], "Ada was here") == "1\n"
    assert fetch(ports[1], "Grace, too") == "2\n"
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/", b" ", timeout=15)
    assert refused.value.read() == b"say something\n"
    instances[0].kill()
    assert "Ada was here" in fetch(ports[2])
    assert fetch(ports[2], "Edsger") == "3\n"
    assert fetch(ports[1]).count("\n") == 3


async def test_a_job_runs_once_per_turn_and_another_machine_takes_over(url, start, tmp_path):
    out = tmp_path / "out"
    job = f"beat every 1: echo $PPID >> {out}"
    machines = {
        process.pid: process
        for process in (start("cron.py", "--url", url, "--name", name, job) for name in "abc")
    }

    async def runs(count):
        for _ in range(300):
            lines = out.read_text().split() if out.exists() else []
            if len(lines) >= count:
                return [int(line) for line in lines]
            await asyncio.sleep(0.1)
        raise AssertionError(f"only {len(lines)} runs")

    before = await runs(3)
    assert len(set(before)) == 1, "one machine leads"
    machines[before[0]].kill()
    after = await runs(len(before) + 3)
    assert after[-1] not in (before[0],)
