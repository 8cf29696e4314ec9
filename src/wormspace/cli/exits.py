"""How the command ends: an exit code that tells a script what to do next, and one line why.

| code | meaning | what a script does |
|---|---|---|
| 0 | done | goes on |
| 1 | anything else | stops |
| 2 | misuse: the call makes no sense as written | is corrected |
| 3 | somebody else was first | settles the register, or gives way |
| 4 | too few servers answered; the outcome is unknown | says the same again |
| 5 | the segment is trimmed | moves on to a later one |
| 6 | refused: wrong cluster, or a store that cannot be used | is configured anew |
"""

from __future__ import annotations

import json

import click

from wormspace.cli.show import as_json_value
from wormspace.errors import (
    AlreadyWritten,
    PartialWrite,
    RaceLost,
    Refused,
    StoreError,
    Trimmed,
    Unavailable,
    UsageError,
    WormError,
)
from wormspace.log import DamagedEntry, LogTrimmed

FAILED, MISUSE, RACE_LOST, UNAVAILABLE, TRIMMED, REFUSED = 1, 2, 3, 4, 5, 6

_CODES: tuple[tuple[type[WormError], int], ...] = (
    (UsageError, MISUSE),
    (RaceLost, RACE_LOST),
    (Unavailable, UNAVAILABLE),
    (Trimmed, TRIMMED),
    (Refused, REFUSED),
    (StoreError, REFUSED),
)


def exit_code(error: Exception) -> int:
    """The exit code for an error; a partial write ends as the first of its failures would."""
    if isinstance(error, PartialWrite):
        first = next((e for e in error.results if e is not None), None)
        return exit_code(first) if first else FAILED
    for family, code in _CODES:
        if isinstance(error, family):
            return code
    return FAILED


def report(error: Exception, *, as_json: bool) -> int:
    """Say on standard error what went wrong, in one line; returns the exit code."""
    code = exit_code(error)
    line = " ".join(str(error).split()) or type(error).__name__
    click.echo(f"wormspace: {line}", err=True)
    if as_json:
        complain_in_json(type(error).__name__, line, code, _details(error))
    return code


def complain_in_json(name: str, message: str, code: int, details: dict[str, object]) -> None:
    """The same as a JSON object, the last line on standard error."""
    click.echo(json.dumps({"error": name, "message": message, "exit": code, **details}), err=True)


def _details(error: Exception) -> dict[str, object]:
    if isinstance(error, AlreadyWritten):
        return {"value": as_json_value(error.value)}
    if isinstance(error, LogTrimmed):
        return {"first": error.first}
    if isinstance(error, DamagedEntry):
        return {"position": error.position, "next": error.next}
    if isinstance(error, PartialWrite):
        names = [type(e).__name__ if e is not None else None for e in error.results]
        return {"results": names}
    return {}
