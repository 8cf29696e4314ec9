"""Values and tables, for people and for scripts.

A value is bytes.  People see text where it is text, with everything that could upset a terminal
escaped; scripts get `{"text": ...}` or `{"base64": ...}`, which turn back into the very same bytes.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PREVIEW = 48

console = Console(highlight=False, soft_wrap=True)
notes = Console(highlight=False, soft_wrap=True, stderr=True)


def as_json_value(value: bytes | None) -> dict[str, str] | None:
    """A value in JSON; None for an empty register."""
    if value is None:
        return None
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def escaped(value: bytes) -> str:
    """A value as one line of printable text."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "".join(chr(b) if 0x20 <= b < 0x7F and b != 0x5C else f"\\x{b:02x}" for b in value)
    return printable(text)


def printable(text: str) -> str:
    """Text as one line, with what does not print escaped as Python would."""
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text
    )


def preview(value: bytes) -> str:
    """The beginning of a value, for a table."""
    text = escaped(_cut(value, 4 * PREVIEW))
    if len(text) <= PREVIEW:
        return text
    more = sign("…", "...")
    return text[: PREVIEW - len(more)] + more


def sign(preferred: str, ascii_only: str) -> str:
    """A sign, or its substitute where standard output or error cannot show it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            preferred.encode(stream.encoding or "ascii")
        except UnicodeEncodeError:
            return ascii_only
    return preferred


def _cut(value: bytes, length: int) -> bytes:
    """The beginning of a value, which is text if the value is: no character is cut in two."""
    for end in range(length, length - 4, -1):
        try:
            value[:end].decode()
        except UnicodeDecodeError:
            continue
        return value[:end]
    return value[:length]


def emit(obj: Any) -> None:
    """One JSON object, on a line of its own, at once."""
    sys.stdout.write(json.dumps(obj) + "\n")
    sys.stdout.flush()


def say(text: str, style: str = "") -> None:
    """A line of plain text on standard output."""
    console.print(Text(text, style=style))


def note(text: str, style: str = "dim") -> None:
    """A line for the person at the terminal, which is no part of the result: standard error."""
    notes.print(Text(text, style=style))


def show_value(value: bytes | None, missing: str = "empty") -> None:
    """A value: to a person as one line, to a file or pipe byte by byte; `missing` if it is None."""
    if value is None:
        note(missing)
    elif sys.stdout.isatty():
        say(escaped(value))
    else:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()


def table(*columns: str) -> Table:
    """An empty table in the command's style; columns that begin with `>` are right-aligned."""
    t = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        numbers = column[0] == ">"
        t.add_column(column.lstrip(">"), justify="right" if numbers else "left", no_wrap=numbers)
    return t


def print_table(t: Table) -> None:
    """Print a table: fitted to a terminal, whole otherwise."""
    if console.is_terminal:
        console.print(t, soft_wrap=False)
    else:
        Console(file=sys.stdout, width=4096, highlight=False).print(t)


def cell(text: str, style: str = "") -> Text:
    """A table cell of plain text: nothing in it is markup."""
    return Text(text, style=style)


def size(count: int) -> str:
    """A number of bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
