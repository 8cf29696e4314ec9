"""The benchmarks run: whoever changes the code must not find out when measuring."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
SHORT = ("--windows", "1,8", "--seconds", "0.1")
LONGER = ("--windows", "1,8", "--seconds", "2")
"""For those that divide by what a lone operation takes: there must have been one."""


def benchmark(out: Path, *arguments: str) -> str:
    """What a benchmark prints."""
    command = [sys.executable, "-m", "benchmarks", *arguments, "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=80, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def loops(out: Path, name: str) -> set[str]:
    """The names of the loops in the file of figures; there is a plot of them."""
    assert (out / f"{name}.png").stat().st_size > 1000
    samples = json.loads((out / f"{name}.json").read_bytes())["result"]["samples"]
    return {sample["name"] for sample in samples}


def test_registers_beside_the_floor(tmp_path: Path) -> None:
    assert "x floor" in benchmark(tmp_path, "registers", *SHORT)
    assert loops(tmp_path, "registers") == {"floor", "write", "read", "read random"}


def test_variants_of_atomic_commit(tmp_path: Path) -> None:
    shown = benchmark(tmp_path, "variants", "--transactions", "3")
    assert all(f" {name} " in shown for name in ("A8", "B6", "C5", "D4", "E3", "F2"))
    assert (tmp_path / "tx-variants.png").stat().st_size > 1000


@pytest.mark.soak
def test_the_log(tmp_path: Path) -> None:
    assert "the subscriber has everything" in benchmark(tmp_path, "log", *LONGER)
    assert {"register write", "append", "chain of N+1"} <= loops(tmp_path, "log")


@pytest.mark.soak
def test_replicated_commands(tmp_path: Path) -> None:
    assert "leader killed" in benchmark(tmp_path, "smr", *LONGER, "--kills", "1")
    assert {"register write", "command", "lone command"} <= loops(tmp_path, "smr")


@pytest.mark.soak
def test_transactions(tmp_path: Path) -> None:
    assert "a lone transaction" in benchmark(tmp_path, "tx", *SHORT)
    assert loops(tmp_path, "tx") == {"write", "transaction"}
