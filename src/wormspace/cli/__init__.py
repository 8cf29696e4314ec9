"""The command `wormspace`: every call of the API for a person at a terminal, and for scripts."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; says what to install where `click` or `rich` is missing."""
    try:
        from wormspace.cli.app import cli
    except ModuleNotFoundError as e:
        if e.name not in ("click", "rich"):
            raise
        sys.exit(f"wormspace: the command needs {e.name}: pip install 'wormspace[cli]'")
    cli(prog_name="wormspace")
