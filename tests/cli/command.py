"""Runs the command in this process, as a person or a script would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from wormspace.cli.app import cli


class Command:
    """`wormspace --url URL ...`, with what it said and how it ended."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *words: str, stdin: bytes = b"", timeout: str = "20") -> Result:
        return CliRunner().invoke(
            cli, ["--url", self.url, "--timeout", timeout, *words], input=stdin
        )

    def ok(self, *words: str, stdin: bytes = b"") -> str:
        """Standard output of a call that must succeed."""
        result = self(*words, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *words: str) -> Any:
        """The one JSON object of a call that must succeed."""
        return json.loads(self.ok("--json", *words))

    def token(self, *words: str) -> str:
        """A capture's token."""
        return self.ok("capture", *words).strip()


def in_file(path: Path) -> Command:
    """The command over an embedded address space."""
    return Command(f"file:{path / 'state'}")
