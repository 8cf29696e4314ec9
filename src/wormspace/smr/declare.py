"""How a state machine is declared, and what is read from the declaration when the class is made.

    class Inventory(StateMachine):
        stock: dict[str, int] = {}

        @command
        def reserve(self, sku: str, count: int) -> int: ...

        @query
        def left(self, sku: str) -> int: ...

Every command and query says what it takes and returns, and the annotated attributes become the
state.  What cannot be encoded is refused here, once, and not at three in the morning on two
replicas of three.
"""

from __future__ import annotations

import copy
import random
import typing
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import msgspec

from wormspace.smr.calls import OF_THIS_PROCESS, Dispatcher
from wormspace.smr.encodable import check_comparable, check_encodable
from wormspace.smr.errors import BadDeclaration
from wormspace.smr.kinds import Kind, Normal, is_immutable
from wormspace.smr.methods import COMMAND, MARK, QUERY, Method, hints_of, is_trusted
from wormspace.smr.shapes import Shape, shape_of, types_of
from wormspace.smr.state import adopt
from wormspace.smr.table import StateTable, Table
from wormspace.smr.undo_journal import UndoJournal

RESERVED = frozenset(
    {"at", "call", "close", "declaration", "due", "emit", "event", "leases", "listen", "migrate"}
    | {"now", "on_due", "on_lapse", "random", "session", "status", "token", "upgrade", "versions"}
)
"""Names that mean something on a replica; no command or query can have them."""


class Moment:
    """When a command runs, and its dice: the same on every replica."""

    __slots__ = ("_random", "_seed", "time_ns")

    def __init__(self, time_ns: int, seed: str) -> None:
        self.time_ns = time_ns
        self._seed = seed
        self._random: random.Random | None = None

    @property
    def random(self) -> random.Random:
        """A generator whose seed came with the command."""
        if self._random is None:
            self._random = random.Random(self._seed)
        return self._random


class Declaration:
    """All that a state machine's class says.

    Attributes:
        version, replaces: which version of the object this is, and the class of the one before.
        migrates: whether it has a `migrate` of its own, for the version before.
        types: the types of the state's attributes, in words.
        shape: what must not change without a new version.
        methods: commands and queries by name; `commands`, `queries`: make calls of either.
        plain: the state's attributes but for tables, and their types.
        tables: the types of keys and rows of each table.
        is_trusted: see `methods.is_trusted`.
    """

    def __init__(
        self, owner: type[StateMachine], version: int, replaces: type[StateMachine] | None
    ) -> None:
        self.owner = owner
        self.version = version
        self.replaces = replaces
        self.migrates = _migrates(owner, replaces)
        self.is_trusted = is_trusted(owner)
        self.methods = {
            name: Method(owner, name, function, getattr(function, MARK))
            for name, function in _marked(owner)
        }
        self.commands = self._dispatcher(COMMAND, OF_THIS_PROCESS)
        self.queries = self._dispatcher(QUERY)
        self.defaults: dict[str, Callable[[], Any]] = {}
        self.plain: dict[str, Kind] = {}
        self.tables: dict[str, tuple[Kind, Kind]] = {}
        for name, hint, default in _attributes(owner):
            where = f"{owner.__name__}.{name}"
            self.defaults[name] = default
            if is_table(hint):
                self.tables[name] = _row_kinds(hint, where)
            else:
                check_encodable(hint, where)
                self.plain[name] = Kind(hint, where)
                self._check_default(name)
        self.decode_rows: dict[str, Callable[[bytes], Any]] = {
            name: msgspec.msgpack.Decoder(list[tuple[key.hint, row.hint]]).decode  # type: ignore[name-defined]
            for name, (key, row) in self.tables.items()
        }
        event = Any if owner.event is None else owner.event
        check_encodable(event, f"{owner.__name__}.event")
        self.event = Normal(event, f"{owner.__name__}, an event")
        self.decode_event: Callable[[Any], Any] = self.event.decode
        self.types: Shape = types_of(self)
        self.shape: Shape = shape_of(self)

    def _dispatcher(self, kind: str, passed_on: tuple[type[Exception], ...] = ()) -> Dispatcher:
        methods = [method for method in self.methods.values() if method.kind == kind]
        try:
            return Dispatcher(self.owner.__name__, methods, passed_on)
        except TypeError as e:
            raise BadDeclaration(f"{self.owner.__name__}: {e}") from e

    def _check_default(self, name: str) -> None:
        try:
            self.plain[name].normal(self.defaults[name]())
        except (TypeError, ValueError, OverflowError) as e:
            raise BadDeclaration(f"its value to begin with: {e}") from e


class StateMachine:
    """Base of replicated objects: annotated attributes are the state, methods change and read it.

    Commands must do the same everywhere: no clock but `now`, no dice but `random`, no file, no
    network, no dependence on the order of a set.  A command that raises an exception has changed
    nothing.  Attributes whose names begin with an underscore are not state: they are neither in
    snapshots nor compared, nor are changes to them undone.

    A class that changes what is in its state, or what a command takes or does, is a new version of
    the object, and names the class that it replaces; see `migrate`.

        class Stock(StateMachine, version=2, replaces=StockV1): ...
    """

    declaration: ClassVar[Declaration]
    event: ClassVar[Any] = None
    """The type of what `emit` is given, if anything."""

    def __init_subclass__(
        cls, version: int = 1, replaces: type[StateMachine] | None = None
    ) -> None:
        super().__init_subclass__()
        _check_version(cls, version, replaces)
        cls.declaration = Declaration(cls, version, replaces)
        if replaces is not None:
            _check_taken_over(cls.declaration, replaces.declaration)
            _check_places(cls.declaration, replaces.declaration)
        for name in cls.declaration.defaults:
            if name in vars(cls):
                delattr(cls, name)  # or all instances would share a mutable default
        if not cls.declaration.is_trusted:
            cls.__setattr__ = _set_state  # type: ignore[assignment]
            cls.__delattr__ = _delete_state  # type: ignore[assignment]

    def __init__(self) -> None:
        self._moment = Moment(0, "")
        self._begin(UndoJournal(), [])

    def _begin(self, journal: UndoJournal, events: list[Any]) -> None:
        """Have all attributes as they are to begin with."""
        self._journal, self._events = journal, events
        declaration = self.declaration
        state = vars(self)
        for name, make in declaration.defaults.items():
            if name in declaration.plain:
                state[name] = adopt(make(), declaration.plain[name], journal)
            elif declaration.is_trusted:
                state[name] = Table()
            else:
                state[name] = StateTable(*declaration.tables[name], journal)

    def __repr__(self) -> str:
        declared = self.declaration
        state = ", ".join(declared.defaults) or "no state"
        return f"<{type(self).__name__}, version {declared.version}, with {state}>"

    @property
    def now(self) -> float:
        """The time that came with the command, in seconds since the epoch; never goes back."""
        return self._moment.time_ns / 1e9

    @property
    def random(self) -> random.Random:
        """Dice whose seed came with the command."""
        return self._moment.random

    def emit(self, event: Any) -> None:
        """Tell whoever listens to this object; not part of the state.

        Raises:
            TypeError, ValueError, OverflowError: it is not what `event` declares.
        """
        self._events.append(self.declaration.event.check(event))

    def due(self) -> float | None:
        """The time at which something happens by itself (a key expires), or None."""
        return None

    def on_due(self) -> None:
        """Called before the commands of each batch, with their time: let happen what is due.

        If it raises an exception, it has changed nothing, and is called again with the next batch.
        """

    def leases(self) -> dict[str, float]:
        """The leases that run, and the length of each in seconds; see `wormspace.smr.leases`.

        A name is used once: a lease that is renewed has another name.
        """
        return {}

    def on_lapse(self, lease: str) -> None:
        """Called when a lease has run for its length: let it end.

        If it raises an exception, it has changed nothing, and is called again later.
        """

    def migrate(self, old: Any) -> None:
        """Take over the state of the version before; `old` is an instance of its class.

        Attributes with the same name and type have been taken over already; what is new has the
        value to begin with.  If it raises an exception, the object stays what it was.  One that is
        inherited from a version before is that one's, and is not called again.
        """


# ------------------------------------------------------------------ attributes


def _set_state(self: StateMachine, name: str, value: Any) -> None:
    """Set an attribute: what is not declared, or is of another type, is refused."""
    kind = self.declaration.plain.get(name)
    state = self.__dict__
    old = state.get(name)
    if kind is None:
        if name in self.declaration.tables and value is old:
            return  # `self.rows |= more`
        if name.startswith("_") or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
            return
        raise _refusal(self, name)
    if value is old:
        return
    if kind.is_value:
        value = kind.check(value)
    undo = self._journal.change()
    if undo is not None:
        undo.append((state.__setitem__, (name, old)))
    state[name] = value
    if not kind.is_value:
        self._journal.put(_Attributes(self), name, (id(self), name))


def _refusal(machine: StateMachine, name: str) -> Exception:
    where = f"{type(machine).__name__}.{name}"
    if name in machine.declaration.tables:
        return TypeError(f"{where} is a Table: change its rows, or clear() and update() it")
    return AttributeError(
        f"{where} is not declared: annotate it in the class, with a value to begin with, or begin "
        "its name with an underscore"
    )


def _delete_state(self: StateMachine, name: str) -> None:
    """State is there or is set to something else."""
    if not name.startswith("_"):
        raise AttributeError(f"{type(self).__name__}.{name} is state: it cannot be deleted")
    object.__delattr__(self, name)


class _Attributes:
    """A state machine's attributes as a container of the journal."""

    def __init__(self, machine: StateMachine) -> None:
        self._machine = machine

    def settle(self, place: str) -> None:
        machine = self._machine
        kind = machine.declaration.plain[place]
        vars(machine)[place] = adopt(vars(machine)[place], kind, machine._journal)


# ------------------------------------------------------------------ reading the class


def is_table(hint: Any) -> bool:
    """Whether an attribute of this type is a `Table`."""
    return typing.get_origin(hint) is Table or hint is Table


def _check_version(
    owner: type[StateMachine], version: int, replaces: type[StateMachine] | None
) -> None:
    if type(version) is not int or version < 1:
        raise BadDeclaration(f"{owner.__name__}: a version is a whole number, from 1")
    is_machine = isinstance(replaces, type) and issubclass(replaces, StateMachine)
    if replaces is not None and (not is_machine or replaces is StateMachine):
        raise BadDeclaration(
            f"{owner.__name__}: `replaces` names the class of the version before, not {replaces!r}"
        )
    if replaces is not None and replaces.declaration.version + 1 != version:
        raise BadDeclaration(  # or two replicas might get to one version over different others
            f"{owner.__name__}: version {version} cannot replace {replaces.__name__}, which is "
            f"version {replaces.declaration.version}: versions go one by one"
        )


def _migrates(owner: type[StateMachine], replaces: type[StateMachine] | None) -> bool:
    written_in = next(one for one in owner.__mro__ if "migrate" in vars(one))
    while replaces is not None:
        if written_in is replaces:
            return False
        replaces = replaces.declaration.replaces
    return written_in is not StateMachine


def _check_taken_over(new: Declaration, old: Declaration) -> None:
    """Refuse a version in which nobody says what becomes of an attribute's values."""
    for name, before in old.types.items():
        now = new.types.get(name, before)
        if now != before and not new.migrates:
            raise BadDeclaration(
                f"{new.owner.__name__}.{name} is {now}, and was {before} in "
                f"{old.owner.__name__}: write a `migrate` that converts what it holds"
            )


def _check_places(new: Declaration, old: Declaration) -> None:
    """Refuse parameters that have moved: arguments travel by their places, between versions too."""
    for name in new.methods.keys() & old.methods.keys():
        before = {p.name: at for at, p in enumerate(old.methods[name].parameters)}
        for at, parameter in enumerate(new.methods[name].parameters):
            if before.get(parameter.name, at) != at:
                raise BadDeclaration(
                    f"{new.owner.__name__}.{name}: argument {parameter.name!r} has another place "
                    f"than in {old.owner.__name__}, and callers of both versions count on it: add "
                    "new ones at the end, or give it another name"
                )


def _marked(owner: type) -> Iterable[tuple[str, Callable[..., Any]]]:
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(owner.__mro__):
        for name, value in vars(base).items():
            if getattr(value, MARK, None) is None:
                found.pop(name, None)
                continue
            if name in RESERVED or name.startswith("_"):
                raise BadDeclaration(f"{owner.__name__}.{name}: that name has another meaning")
            found[name] = value
    return found.items()


def _attributes(owner: type) -> Iterable[tuple[str, Any, Callable[[], Any]]]:
    inherited = getattr(super(owner, owner), "declaration", None)
    hints = hints_of(owner, owner.__name__)
    for name, hint in hints.items():
        if name.startswith("_") or typing.get_origin(hint) is ClassVar or hint is ClassVar:
            continue
        if name in RESERVED:
            raise BadDeclaration(f"{owner.__name__}.{name}: that name has another meaning")
        if name in vars(owner):
            yield name, hint, _maker(vars(owner)[name])
        elif inherited is not None and name in inherited.defaults:
            yield name, hint, inherited.defaults[name]
        elif is_table(hint):
            yield name, hint, Table
        else:
            raise BadDeclaration(
                f"{owner.__name__}.{name}: give it a value to begin with: all replicas begin alike"
            )


def _maker(default: Any) -> Callable[[], Any]:
    factory = getattr(default, "default_factory", None)  # msgspec.field(default_factory=...)
    if callable(factory):
        made: Callable[[], Any] = factory
        return made
    return lambda: copy.deepcopy(default)


def _row_kinds(hint: Any, where: str) -> tuple[Kind, Kind]:
    arguments = typing.get_args(hint)
    if len(arguments) != 2:
        raise BadDeclaration(f"{where}: say of what: Table[str, int]")
    for argument in arguments:
        check_encodable(argument, where)
        if not is_immutable(msgspec.inspect.type_info(argument)):
            raise BadDeclaration(
                f"{where}: the rows of a Table are immutable: built-in scalars, tuples of them or "
                f"frozen msgspec.Structs whose fields are immutable, not {argument!r}"
            )
    check_comparable(arguments[0], where)
    return Kind(arguments[0], where, is_key=True), Kind(arguments[1], where)
