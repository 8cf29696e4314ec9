"""What can go wrong with a log, beyond what can go wrong with registers."""

from __future__ import annotations

from wormspace.errors import RaceLost, Trimmed, Unavailable, UsageError


class LogTrimmed(Trimmed):
    """The position is behind the trim point; `first` is the first position still there."""

    def __init__(self, message: str, first: int) -> None:
        super().__init__(message)
        self.first = first


class NotWritten(UsageError):
    """Nothing is at this position yet: it is at or beyond the tail, or its append is under way."""


class NoSequencer(Unavailable):
    """No sequencer answered in time, and this log was opened so as not to start one."""


class Deposed(RaceLost):
    """The sequencer found that another has taken its place; ask that one."""
