"""The log of a process that serves: one JSON object a line, on standard error.

A line takes memory, and the lines that matter most are written when there is none left.  So some is
held back for them; where that is not enough either, a line that was made at the start says so.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO, TypeVar

Result = TypeVar("Result")

RESERVE_BYTES = 2 << 20
"""Two of the pieces in which Python asks the system for memory."""

NO_MEMORY = b'{"level": "critical", "event": "there is no memory to say what happened"}\n'

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None)))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whatever else was given."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Lines(logging.StreamHandler[TextIO]):
    """Writes records, and never raises for want of memory."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(JsonLines())
        self._reserve = bytes(RESERVE_BYTES)

    def emit(self, record: logging.LogRecord) -> None:
        self._hold()
        if self._write(record):
            return
        self._reserve = b""
        if not self._write(record):
            with suppress(OSError):
                os.write(self.stream.fileno(), NO_MEMORY)

    def _hold(self) -> None:
        """Hold the reserve again, if it was let go and can be had."""
        if not self._reserve:
            with suppress(MemoryError):
                self._reserve = bytes(RESERVE_BYTES)

    def _write(self, record: logging.LogRecord) -> bool:
        """Write a line; false if there was no memory for it."""
        try:
            self.stream.write(self.format(record) + "\n")
            self.flush()
        except MemoryError:
            return False
        except Exception:  # noqa: BLE001 - as any handler: who logs must not suffer
            self.handleError(record)
        return True


def log_to_stderr(level: str) -> None:
    """Structured logs on standard error."""
    handler = Lines(sys.stderr)
    logging.captureWarnings(True)
    # asyncio's own errors, and warnings of Python, are lines of the same log.
    for name in ("wormspace", "asyncio", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper() if name == "wormspace" else logging.WARNING)
    if sys.__stderr__ is not None:
        # What a library in C does without memory, or the system with a damaged file that is
        # mapped, ends the process by a signal: not without a word.
        faulthandler.enable(sys.__stderr__)


def with_last_words(words: str, work: Callable[[], Result]) -> Result:
    """Run `work`; if a signal ends the process in it, the words are the last line of its log.

    All that can be written then is the stack: its files, lines and functions.  So the words are the
    name of the file of its last entry.
    """
    result: Result = eval(compile("work()", words, "eval"), {"work": work})
    return result
