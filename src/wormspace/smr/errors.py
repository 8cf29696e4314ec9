"""What can go wrong with a replicated object, beyond what can go wrong with registers."""

from __future__ import annotations

from wormspace.errors import ProtocolViolation, StoreError, Unavailable, UsageError, WormError


class BadDeclaration(UsageError):
    """A state machine's class is not right: something cannot be encoded, or is not said."""


class CommandFailed(WormError):
    """A command raised an exception that the caller cannot name; `kind` is its class's name.

    Exceptions that are built in, or that can be seen in the module of the state machine, are
    raised as what they are.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind = kind


class Diverged(ProtocolViolation):
    """This replica's state differs from the leader's at an equal position: it stops.

    A command did something that is not the same everywhere: it read a clock, a file, a set's
    order, or memory is broken.
    """


class Stopped(WormError):
    """This replica has stopped, for the reason that is its cause."""


class OtherStrategy(UsageError):
    """This replica was given another leadership strategy than the object was begun with."""


class UpdateNeeded(UsageError):
    """This replica's class is of another version than the object: it cannot take part.

    Mostly it is older; start it again with the newer class, and it goes on.
    """


class VersionForgotten(UpdateNeeded):
    """The log, or a snapshot, is still of a version that this replica's class does not lead to."""


class ShapeChanged(UsageError):
    """This replica's class declares something else than the object has, of the same version."""


class NoLeader(Unavailable):
    """No replica that leads could be reached in time; whether a command was applied is unknown."""


class SessionExpired(Unavailable):
    """The command came back so late that nobody knows any more whether it was applied."""


class Behind(Unavailable):
    """The replica did not reach the position that a session must see in time."""


class EventsLost(WormError):
    """The event that comes next is held by nobody any more; `first` is the oldest that is."""

    def __init__(self, message: str, first: int) -> None:
        super().__init__(message)
        self.first = first


class LeaseLost(WormError):
    """What a block had for a lease was not its own any more; somebody else may have it now."""


class BadSnapshot(StoreError):
    """A snapshot is damaged, or of another state machine."""


class NothingKept(StoreError):
    """A place for snapshots has none."""


class NoSnapshot(StoreError):
    """The space's beginning was trimmed, and nobody who can be reached has a snapshot."""
