"""What can go wrong with a log, beyond what can go wrong with registers."""

from __future__ import annotations

from wormspace.errors import RaceLost, Trimmed, Unavailable, UsageError, WormError


class LogTrimmed(Trimmed):
    """The position is behind the trim point; `first` is the first position still there."""

    def __init__(self, message: str, first: int) -> None:
        super().__init__(message, first)
        self.first = first

    def __str__(self) -> str:
        return str(self.args[0])


class NotWritten(UsageError):
    """Nothing is at this position yet: it is at or beyond the tail, or its append is under way."""


class NoSequencer(Unavailable):
    """No sequencer answered in time, and this log was opened so as not to start one."""


class DamagedEntry(WormError):
    """A register of the log holds something that is no entry; the rest of the log is well.

    Attributes:
        position: the first position that cannot be read.
        next: the first one that can be read again: read or listen from there to go on.
    """

    def __init__(self, message: str, position: int, next: int) -> None:  # noqa: A002
        super().__init__(message, position, next)
        self.position = position
        self.next = next

    def __str__(self) -> str:
        return str(self.args[0])


class Deposed(RaceLost):
    """The sequencer found that another has taken its place; ask that one."""
