"""The demo tells the truth, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.mark.processes
def test_the_demo_goes_as_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for error in ("CaptureLost", "AlreadyWritten", "Unavailable", "Trimmed"):
        assert f"→ {error}" in done.stdout
    assert list(tmp_path.iterdir()) == []
