"""What simulated runs alone reach of the product: branches by package, and lines that must come up.

    python tools/reach.py             # prints the table; exit code 1 below a floor
    python tools/reach.py --runs 20   # more runs of each world

A run of each world has its own seed, fixed, so that the figures change with the code alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import coverage

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "wormspace"
TESTS = ROOT / "tests"

FLOORS = {
    "runtime": 50,
    "paxos": 88,
    "registers": 77,
    "server": 64,
    "store": 59,
    "space": 69,
    "writer": 37,
    "wire": 53,
    "rpc": 64,
    "log": 61,
    "smr": 48,
    "tx": 42,
}
"""Percent of a package's branches that the runs must reach."""

SOMETIMES = {
    "a report comes in pages": ("registers", "paxos/prepare.py", "if p.next != COMPLETE:", 1),
    "a capture is preempted": ("registers", "paxos/prepare.py", "phase=PREEMPTED)", 0),
    "a value is met half-written": (
        "registers",
        "registers/paxos/client.py",
        "undecided.setdefault(",
        0,
    ),
    "a client has forgotten what it wrote": (
        "the forgetful",
        "registers/paxos/memory.py",
        "def _forget_one",
        3,
    ),
    "a listener is behind": (
        "registers",
        "space/follow.py",
        "self._behind, self._from = self._done.below",
        0,
    ),
    "a listener is too slow for a server": (
        "the crowded",
        "registers/paxos/listening.py",
        "elif isinstance(message, Lagging):",
        1,
    ),
    "a batch meets a full disk": ("registers", "server/node.py", "async def _on_full", 2),
    "marks are saved": ("registers", "server/marks.py", "for i, mark in enumerate(marks):", 1),
    "trimmed segments are swept in parts": (
        "registers",
        "server/acceptors.py",
        "if deleted >= limit or room <= 0:",
        1,
    ),
    "a sequencer finds that it was replaced": ("logs", "log/sequencer.py", "async def _lose", 2),
    "what an appender lost goes elsewhere": (
        "logs",
        "log/appending.py",
        "self.lost += len(lost)",
        0,
    ),
    "a replica begins with a snapshot": (
        "snapshots",
        "smr/catching_up.py",
        "context.kept = engine.position",
        0,
    ),
    "a leader loses a register": ("replicas", "smr/term.py", "async def _recover", 2),
    "a resolver writes a no": (
        "transfers",
        "tx/resolver.py",
        "votes[manager] = await self.refuse(",
        0,
    ),
    "votes are trimmed": (
        "transfers",
        "tx/trimming.py",
        "host.vote_store.forget(name, host.peers.initiator, number)",
        0,
    ),
}
"""Name: (the world in which it must, file, text of a line, how many lines below it that one is)."""


def run_all(runs: int) -> None:
    """Some runs of each world; a failing one raises."""
    sys.path[:0] = [str(ROOT), str(TESTS), *(str(TESTS / d) for d in ("sim", "log", "smr"))]
    logging.disable(logging.CRITICAL)
    import shapes
    from smr_worlds import run_faulty
    from snapshot_worlds import run_on_snapshots
    from test_log_faults import Campaign
    from tests.tx.test_tx_campaign import run as run_transfers

    from wormspace.sim.campaign import Result, Shape, run
    from wormspace.smr import Leaderless, Rotating, Sticky

    ways = (Sticky(0.3), Rotating(0.5), Leaderless())
    drawn = [(seed, Shape.draw(seed)) for seed in range(2 * runs)]
    special = [(0, shapes.crowded(0)), (0, shapes.forgetful(0))]
    for seed, shape in drawn + special:
        if seed % 2:
            shape = dataclasses.replace(shape, real_store=True, rot=seed % 4 == 1)
        report = run(seed, shape)
        if report.result is not Result.RIGHT:
            raise AssertionError(report.story)
    for seed in range(runs):
        way = {"leadership": ways[seed % len(ways)]}
        run_faulty(seed, options=lambda name, way=way: way, duration_s=4.0)
        run_on_snapshots(seed, duration_s=3.0)
        Campaign(seed, entries=5, trim_every_s=0.5, usurp_every_s=0.5).run()
    for seed in range(max(1, runs // 3)):
        run_transfers(seed, faults_s=3.0)


def line_of(name: str) -> tuple[str, int]:
    """File and number of the line that a `SOMETIMES` speaks of."""
    _, file, text, below = SOMETIMES[name]
    lines = (SOURCE / file).read_text().splitlines()
    found = [i for i, line in enumerate(lines, 1) if text in line]
    if not found:
        raise LookupError(f"{name}: {file} has no line with {text!r}")
    return file, found[0] + below


def measure(runs: int) -> dict[str, Any]:
    """What coverage says of each file of the product, by its path below src/wormspace."""
    omit = [str(SOURCE / d / "*") for d in ("sim", "cli", "bench")]
    watching = coverage.Coverage(branch=True, source=[str(SOURCE)], omit=omit, data_file=None)
    with watching.collect():
        run_all(runs)
    with tempfile.NamedTemporaryFile("r", suffix=".json") as out:
        watching.json_report(outfile=out.name)
        files = json.loads(Path(out.name).read_text())["files"]
    return {str(Path(name).resolve().relative_to(SOURCE)): file for name, file in files.items()}


def main() -> int:
    """Print what was reached; 1 if that is too little."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=6, help="runs of each world")
    files = measure(parser.parse_args().runs)
    low = []
    print(f"{'package':10} {'branches':>9} {'reached':>8}   floor")
    for package, floor in FLOORS.items():
        sums = [f["summary"] for name, f in files.items() if name.startswith(f"{package}/")]
        branches = sum(s["num_branches"] for s in sums)
        percent = 100.0 * sum(s["covered_branches"] for s in sums) / max(1, branches)
        print(f"{package:10} {branches:9} {percent:7.1f}%   {floor}%")
        if percent < floor:
            low.append(f"{package}: {percent:.1f} % of the branches, not {floor} %")
    for name in SOMETIMES:
        file, number = line_of(name)
        happened = number in files[file]["executed_lines"]
        print(f"{'happened' if happened else 'NEVER':10} {name}")
        if not happened:
            low.append(f"never: {name} ({file}:{number})")
    for line in low:
        print(line)
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
