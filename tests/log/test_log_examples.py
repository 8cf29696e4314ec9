"""The examples do what they say."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, url):
    return subprocess.run(
        [sys.executable, EXAMPLES / name, url], capture_output=True, text=True, check=True
    ).stdout


def test_the_audit_trail_finds_what_concerns_a_subject_and_resumes(tmp_path):
    told = run("audit_trail.py", f"file:{tmp_path / 'store'}")
    assert "eve: deleted" in told
    assert "alarms of the second half: ['position 3: eve']" in told


def test_the_ledger_has_every_payment_once_however_often_its_keeper_dies():
    assert "every payment was entered once" in run("ledger.py", "memory:")


def test_the_work_queue_does_every_job_once_though_a_worker_dies():
    assert "every job was done once" in run("work_queue.py", "memory:")
