"""The Coq part: compile, ask what it rests on, and have the kernel check it again (`coqchk`)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent / "coq"
FILES = ("Register", "Possible")
THEOREMS = (
    "agreement",
    "validity",
    "immutability",
    "empty_read",
    "marked_read",
    "trimmed_read",
    "trimmed_by_decision",
    "captured_write_possible",
    "unsafe_write_possible",
    "trim_possible",
)
CLOSED = "Closed under the global context"
LIMIT_S = 900


@dataclass
class Coq:
    """What came of it: `ok` is None if Coq is not installed."""

    ok: bool | None
    said: str
    seconds: float


def run() -> Coq:
    """Compile and check all files, in a directory of their own."""
    if not shutil.which("coqc") or not shutil.which("coqchk"):
        return Coq(None, "skipped: Coq is not installed (Debian: apt-get install coq)", 0.0)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        said = ""
        for name in FILES:
            shutil.copy(HERE / f"{name}.v", directory)
            said += _call(["coqc", f"{name}.v"], directory)
        checked = _call(["coqchk", "-silent", "-o", *FILES], directory)
    closed = said.count(CLOSED)
    ok = closed == len(THEOREMS) and "* Axioms: <none>" in checked
    text = f"{closed} of {len(THEOREMS)} theorems closed; coqchk finds no axioms"
    return Coq(ok, text if ok else said + checked, time.perf_counter() - began)


def _call(command: list[str], directory: str) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return done.stdout + done.stderr if done.returncode == 0 else f"failed: {done.stderr}"
