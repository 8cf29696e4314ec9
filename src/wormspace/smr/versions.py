"""Versions of a replicated object: which class it is at which position of the log.

A class names the one that it replaces, so the newest class that a replica has leads to all older
ones.  The object begins as what the metadata of its first segment says.  From then on an *upgrade*,
a packet like others in the log, makes it the next version at one position, on all replicas:
whatever comes before is run by the old class, also when the log is read again years later.
"""

from __future__ import annotations

import msgspec

from wormspace.malformed import MALFORMED
from wormspace.smr.calls import Malformed
from wormspace.smr.declare import StateMachine
from wormspace.smr.errors import ShapeChanged, UpdateNeeded, VersionForgotten
from wormspace.smr.methods import run_whole
from wormspace.smr.records import encode
from wormspace.smr.shapes import Shape, differences
from wormspace.smr.state import adopt

UPGRADE = b"\xc1"
"""Begins no msgpack value, and so no calls."""


class Upgrade(msgspec.Struct, frozen=True, array_like=True):
    """From here on the object is of this version; `shape` is what its class must declare."""

    version: int
    shape: Shape


_decode_upgrade = msgspec.msgpack.Decoder(Upgrade).decode


def encode_upgrade(machine_type: type[StateMachine]) -> bytes:
    """What is in the log in place of calls."""
    declaration = machine_type.declaration
    return UPGRADE + encode(Upgrade(declaration.version, declaration.shape))


def decode_upgrade(raw: bytes) -> Upgrade:
    """The upgrade in a packet that begins as one.

    Raises:
        Malformed: it is none.
    """
    try:
        return _decode_upgrade(raw[len(UPGRADE) :])
    except MALFORMED as e:
        raise Malformed(str(e)) from e


class Lineage:
    """A class and all those that it replaces, one after the other.

    Attributes:
        newest: the class that its replicas were told.
    """

    def __init__(self, newest: type[StateMachine]) -> None:
        self.newest = newest
        self._classes: dict[int, type[StateMachine]] = {}
        found: type[StateMachine] | None = newest
        while found is not None:
            self._classes[found.declaration.version] = found
            found = found.declaration.replaces

    def at(self, version: int, shape: Shape, what: str) -> type[StateMachine]:
        """The class of a version of the object.

        Args:
            shape: what that class must declare.
            what: the object, for people.

        Raises:
            UpdateNeeded: this replica has no such class.
            ShapeChanged: its class declares something else.
        """
        newest = self.newest
        found = self._classes.get(version)
        if found is None:
            if version > newest.declaration.version:
                raise UpdateNeeded(
                    f"{what} is of version {version}, and this replica knows versions up to "
                    f"{newest.declaration.version} ({newest.__name__}): update this replica"
                )
            raise VersionForgotten(
                f"{what} is still of version {version} here, and this replica does not know that "
                f"any more: {newest.__name__} must name the class of that version as the one that "
                "it `replaces`, or begin with a later snapshot"
            )
        if difference := differences(found.declaration.shape, shape):
            raise ShapeChanged(
                f"{what} is of version {version}, but not as {found.__name__} declares it "
                f"({difference}): what changes needs a new version, which `replaces` the one before"
            )
        return found

    def between(self, old: int, new: int) -> list[type[StateMachine]]:
        """The classes after version `old`, up to version `new`, in order."""
        return [self._classes[v] for v in sorted(self._classes) if old < v <= new]


def upgraded(machine: StateMachine, classes: list[type[StateMachine]]) -> StateMachine:
    """The state machine's successor: what its state has become in the last of the classes.

    Raises:
        Exception: what a migration raised; nothing has changed then.
    """

    def step_by_step(machine: StateMachine) -> StateMachine:
        for successor in classes:
            machine = _successor(machine, successor)
        return machine

    return run_whole(machine, step_by_step)  # type: ignore[no-any-return]


def _successor(old: StateMachine, machine_type: type[StateMachine]) -> StateMachine:
    new = machine_type()
    new._begin(old._journal, old._events)
    new._moment = old._moment
    here, there = new.declaration, old.declaration
    state, before = vars(new), vars(old)
    for name, kind in here.plain.items():
        if there.types.get(name) != here.types[name]:
            continue
        same = there.plain[name].hint == kind.hint
        state[name] = before[name] if same else adopt(before[name], kind, old._journal)
    for name, (key, row) in here.tables.items():
        if there.types.get(name) != here.types[name]:
            continue
        rows = there.tables[name]
        same = (rows[0].hint, rows[1].hint) == (key.hint, row.hint)
        if same and type(before[name]) is type(state[name]):
            state[name] = before[name]
        else:
            state[name].update(before[name])
    if here.migrates:
        new.migrate(old)
    return new
