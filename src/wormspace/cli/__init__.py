"""The command `wormspace`: every call of the API for a person at a terminal, and for scripts."""

from __future__ import annotations

import io
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command; says what to install where `click` or `rich` is missing."""
    # The first process of a container has no default that would end it.
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a value may hold any character
    try:
        from wormspace.cli.app import cli
    except ModuleNotFoundError as e:
        if e.name not in ("click", "rich"):
            raise
        sys.exit(f"wormspace: the command needs {e.name}: pip install 'wormspace[cli]'")
    try:
        cli(prog_name="wormspace")
    except OSError as e:  # of the help, say, on a full disk: nothing else lets one out
        sys.exit(f"wormspace: {e}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does: what is under way is cancelled and cleaned up.

    Also of a command that a shell has started in the background: Ctrl-C is ignored there.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
