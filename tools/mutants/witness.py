"""What the process of a trial notes of it: the test that runs, under a limit of its own.

Used by the panel in its forks, and as a pytest plugin (`-p tools.mutants.witness`) where a trial
needs a new process.  WORMSPACE_TRIAL is its directory: `seconds.json` says what each test takes,
`by` names the test that runs, or failed.
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

import pytest

PATIENCE, SLACK_CPU_S = 3, 3.0
"""A test may take so many times its CPU, and so much more: who takes longer hangs."""


def limit_s(seconds: float) -> float:
    """The CPU that a test may take which takes so much without a mistake."""
    return PATIENCE * seconds + SLACK_CPU_S


def begin(trial: Path, test: str, seconds: float) -> None:
    """A test begins: it is the one to name if this process ends now."""
    (trial / "by").write_text(test)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time() + limit_s(seconds)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def pytest_runtest_logstart(nodeid: str) -> None:
    """In a new process."""
    trial = Path(os.environ["WORMSPACE_TRIAL"])
    begin(trial, nodeid, json.loads((trial / "seconds.json").read_text()).get(nodeid, 0.0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """The first failure ends a trial."""
    if report.failed:
        os._exit(1)
