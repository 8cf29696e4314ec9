"""The kernel refuses a call of the system: strace, which is needed for it, and the cases."""

from __future__ import annotations

import shutil
import signal
import subprocess

import pytest

MOMENTS = (1, 2, 5, 20, 60)
"""Which of a call's invocations are refused, one a time."""


def strace() -> str:
    """Where strace is; without it the test is skipped."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed (make databases installs it)")
    return path


def refuse(call, error, when):
    """Strace's options to refuse invocation `when` of a call, and to write down that call alone."""
    return ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"]


class Refusal:
    """A process that runs has one call refused, of any of its threads.

    Args:
        trace: the file that strace writes.
    """

    def __init__(self, pid, trace, call, error, when):
        self.trace = trace
        command = [strace(), "-f", "-p", str(pid), "-o", str(trace), *refuse(call, error, when)]
        self.strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = self.strace.stderr.readline()
        if "attached" not in said:
            self.strace.kill()
            pytest.skip(f"strace cannot be used here: {said.strip()}")

    def end(self):
        """Let the process alone; returns whether the call was refused."""
        self.strace.send_signal(signal.SIGINT)
        self.strace.communicate(timeout=60)
        return was_refused(self.trace)


def was_refused(trace):
    """Whether a call was refused, by what strace wrote down."""
    return "(INJECTED)" in trace.read_text()


def each_moment(fail):
    """Refuse each of the moments, until the call is not made that often; how many were refused.

    Args:
        fail: carries one case out; returns whether the call was made that often.
    """
    for n, when in enumerate(MOMENTS):
        if not fail(when):
            return n
    return len(MOMENTS)
