"""Every error the system raises on purpose, in families that tell who can do something about it.

* `UsageError`: the caller's mistake; nothing was sent or changed.
* `RaceLost`: somebody else was first; the system is healthy.
* `Trimmed`: the segment is garbage, by consensus, for ever.
* `Unavailable`: too few servers answered in time; **the outcome is unknown**.
* `Refused`: a server does not want to talk to this client at all.
* `StoreError`: the data directory cannot be used.
* `ProtocolViolation`: a peer, or an application that broke its promise; never ignored.

All derive from `WormError`, those of the applications too.  A name says what happened
(`CaptureLost`, `NotAllocated`); only the base and the two families that are named after whom they
concern, `UsageError` and `StoreError`, end in Error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self


class WormError(Exception):
    """Base of all errors raised by wormspace.

    They can be pickled and copied, with all that they say: between processes, an error that cannot
    be is replaced by a riddle.
    """

    def __reduce__(self) -> tuple[Callable[..., WormError], tuple[object, ...]]:
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[WormError], args: tuple[object, ...], said: dict[str, object]) -> WormError:
    """An error as it was, whatever its constructor takes."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(said)
    return error


# ------------------------------------------------------------------ the caller's mistake


class UsageError(WormError, ValueError):
    """The call makes no sense as written; nothing was sent."""


class BadUrl(UsageError):
    """The URL given to `connect` names no register implementation."""


class BadAddress(UsageError):
    """A space name, segment number or offset outside its bounds."""


class NotAllocated(UsageError):
    """The segment has not been allocated."""


class ValueTooLarge(UsageError):
    """A value larger than the servers accept."""


class BadToken(UsageError):
    """A capture token that does not parse, or does not cover the register."""


class WrongKind(UsageError):
    """The space is something else: another application's, or the user's own."""


class NewerFormat(UsageError):
    """What is stored was written by a newer wormspace, in a format that this one cannot read."""

    @classmethod
    def of(cls, what: object, found: int, newest: int) -> Self:
        """The error for `what`, whose format is above the newest that is known here."""
        return cls(
            f"{what} has format {found}, made by a newer wormspace; this one reads up to "
            f"{newest}: update it"
        )


class TokenReused(UsageError):
    """A second, different value for one register under one capture token.

    Under one ballot at most one value is ever proposed for a register: two would break
    immutability, so the second is refused: by this client if it knows of the first, else by the
    servers that do.
    """


# ------------------------------------------------------------------ lost races


class RaceLost(WormError):
    """Another client was first."""


class CaptureLost(RaceLost):
    """The register was captured by somebody else meanwhile.

    The write is *not* known to have failed: the new captor may have met it half-written and
    completed it. `settle` the register to find out.
    """


class AlreadyWritten(RaceLost):
    """The register holds a different value, for ever; `value` is it."""

    def __init__(self, message: str, value: bytes) -> None:
        super().__init__(message)
        self.value = value


# ------------------------------------------------------------------ the state of the system


class Trimmed(WormError):
    """The segment was trimmed: its registers are gone for ever."""


class Unavailable(WormError):
    """Too few servers answered before the deadline; the outcome is unknown.

    A replay of the same write with the same token and value is always safe, and `settle`
    decides the register one way or the other.
    """

    @classmethod
    def contended(cls, what: str, times: int) -> Self:
        """Of a capture that others took each time, until there was no time left."""
        return cls(
            f"{what}: other clients captured it again and again ({times} times) until the "
            "deadline. The outcome is unknown; the same call again is safe."
        )


class ServerFull(Unavailable):
    """Too many servers have no room to store the change; they still serve reads."""


class Closed(WormError):
    """The client, or the store, was closed while the call was under way, or before it."""


# ------------------------------------------------------------------ servers and stores


class Refused(WormError):
    """A server refuses to talk to this client; `code` is the protocol's word for why."""

    def __init__(self, message: str, code: str = "refused") -> None:
        super().__init__(message)
        self.code = code


class StoreError(WormError):
    """The data directory cannot be used as it is."""


class StoreLocked(StoreError):
    """Another process has the data directory open."""


class WrongIdentity(StoreError):
    """A data directory or a snapshot belongs to another server or space, or what it had is lost."""


class StoreFull(StoreError):
    """No room on the disk, or the store has reached its size limit; nothing was changed."""


class StoreDamaged(StoreError):
    """What the store should hold is not what was put there; the rest of it can be used."""


class ProtocolViolation(WormError):
    """A peer said something that cannot be, or an application broke its promise.

    For instance two values under one ballot: two clients used the unsafe write on one register,
    or one token was used at two places at once.
    """


class PartialWrite(WormError):
    """Some registers of a range were not written; `results` has an error or None for each."""

    def __init__(self, message: str, results: list[WormError | None]) -> None:
        super().__init__(message)
        self.results = results
