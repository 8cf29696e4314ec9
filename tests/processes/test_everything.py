"""What a deployment meets in a year, in an hour (or, here, in seconds): see `everything.py`.

`WORMSPACE_SOAK_MINUTES` says how long the soak lasts (60); it prints its figures as it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from everything import DATA_BYTES, SLOW_DISK, Everything

from cluster_fixture import ProcessCluster

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("everything")]

DESCRIPTORS = 256
IDLE = 300
ADDRESS_SPACE = 16 << 30


def run(base: Path, seconds: float, rate: float, pause_s: float) -> dict[str, Any]:
    seed = int(os.environ.get("WORMSPACE_SEED", random.SystemRandom().getrandbits(32)))
    print(f"WORMSPACE_SEED={seed}")
    cluster = ProcessCluster(base, max_store_bytes=1 << 33)
    cluster.prelude = SLOW_DISK
    cluster.wrap = ["prlimit", f"--nofile={DESCRIPTORS}", f"--as={ADDRESS_SPACE}"]
    cluster.wrap.append(f"--data={DATA_BYTES}")
    young = ProcessCluster(base / "young")
    try:
        cluster.start()
        young.start()
        metrics = asyncio.run(Everything(cluster, young, seed, rate, pause_s).run(seconds, IDLE))
        for name in cluster.names:
            before, found, after = cluster.log_of(name).partition("Traceback")
            assert not found or "MemoryError" in after, before[-1000:] + found + after[:5000]
    finally:
        cluster.close()
        young.close()
    print(json.dumps(metrics, indent=1))
    return metrics


def test_a_few_seconds_of_everything(tmp_path: Path) -> None:
    metrics = run(tmp_path, 8, rate=30, pause_s=0.5)
    assert not metrics["ended without a word"]
    assert metrics["segments written"]
    assert metrics["medians of each third"]["write ms"]


@pytest.mark.soak
def test_an_hour_of_everything(tmp_path: Path) -> None:
    minutes = float(os.environ.get("WORMSPACE_SOAK_MINUTES", "60"))
    metrics = run(tmp_path, 60 * minutes, rate=36, pause_s=2.5)
    medians = metrics["medians of each third"]
    assert not metrics["ended without a word"]
    assert metrics["segments written"] > 100_000 * minutes / 60
    assert metrics["spaces"] > 10_000 * minutes / 60
    assert metrics["registers acknowledged"] > 10_000_000 * minutes / 60
    for what in ("server's private MiB", "client's private MiB"):
        assert medians[what][2] < 1.5 * medians[what][0] + 32, f"{what} grows"
    assert (
        medians["server's CPU ms per segment"][2] < 1.5 * medians["server's CPU ms per segment"][0]
    )
    first, _, last = (
        old / young
        for old, young in zip(medians["write ms"], medians["young cluster's write ms"], strict=True)
    )
    assert last < 2 * first, "writes become slower, and those of a young cluster do not"
