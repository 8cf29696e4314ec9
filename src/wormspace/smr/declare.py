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
import inspect
import random
import typing
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat
from typing import Any, ClassVar, TypeVar

import msgspec

from wormspace.smr.calls import OF_THIS_PROCESS, Dispatcher
from wormspace.smr.canonical import encode_canonical
from wormspace.smr.errors import DeclarationError
from wormspace.smr.records import encode
from wormspace.smr.table import Table

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__wormspace_kind__"
COMMAND, QUERY = "command", "query"
_IMMUTABLE = (type(None), bool, int, float, str, bytes)

RESERVED = frozenset(
    {"at", "call", "close", "due", "emit", "events", "now"}
    | {"on_due", "random", "session", "status", "token"}
)
"""Names that mean something on a replica; no command or query can have them."""


def command(function: F) -> F:
    """Mark a method as a command: it may change the state, and every replica runs it."""
    setattr(function, _MARK, COMMAND)
    return function


def query(function: F) -> F:
    """Mark a method as a query: it must not change the state, and one replica runs it."""
    setattr(function, _MARK, QUERY)
    return function


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


class Method:
    """One command or query: what it takes, how a caller calls it, and how a state machine runs it.

    Attributes:
        parameters: what it takes.
        columns: the struct that carries the arguments of many calls; see `calls`.
        call: runs it on a state machine, all arguments by position.
        run: the same for an outcome: what a later command could change is returned encoded.
        is_plain: whether results are immutable built-ins: safe to hand out as they are.
        decode: a result from its encoding.
    """

    def __init__(self, owner: type, name: str, function: Callable[..., Any], kind: str) -> None:
        self.name = name
        self.kind = kind
        self.function = function
        where = f"{owner.__name__}.{name}"
        hints = _hints(function, where)
        self.parameters = _parameters(function, hints, where)
        if "return" not in hints:
            raise DeclarationError(f"{where}: say what it returns: `-> None` if nothing")
        for parameter in self.parameters:
            check_encodable(hints[parameter.name], f"{where}: argument {parameter.name!r}")
        check_encodable(hints["return"], f"{where}: its result")
        types = [hints[parameter.name] for parameter in self.parameters]
        self.columns: type[msgspec.Struct] = msgspec.defstruct(
            f"{owner.__name__}_{name}",
            [
                (parameter.name, list[kind] | None, None)  # type: ignore[valid-type]
                for parameter, kind in zip(self.parameters, types, strict=True)
            ],
            array_like=True,
            tag=name,
            module=owner.__module__,
        )
        self._decoders = [msgspec.msgpack.Decoder(kind).decode for kind in types]
        self.decode: Callable[[Any], Any] = msgspec.msgpack.Decoder(hints["return"]).decode
        self.is_plain = all(t in _IMMUTABLE for t in _members(hints["return"]))
        self.call = _by_position(function, self.parameters)
        self.run = self.call if self.is_plain else self._run_encoding

    def _run_encoding(self, machine: StateMachine, *arguments: Any) -> msgspec.Raw:
        encode_result = encode_canonical if self.kind == COMMAND else encode
        return msgspec.Raw(encode_result(self.call(machine, *arguments)))

    def bind(self, send: Callable[..., Any], *context: Any) -> Callable[..., Any]:
        """A function with this method's own parameters: calls `send(method, arguments, *context)`.

        Written as source, as dataclasses do: Python itself puts the arguments in order, in a
        quarter of the time.
        """
        taking = inspect.Signature(
            [
                p.replace(annotation=p.empty, default=_Source(f"__default_{p.name}__"))
                if p.default is not p.empty
                else p.replace(annotation=p.empty)
                for p in self.parameters
            ]
        )
        names = {f"__default_{p.name}__": p.default for p in self.parameters}
        names |= {f"__context_{n}__": one for n, one in enumerate(context)}
        arguments = "".join(f"{p.name}, " for p in self.parameters)
        rest = "".join(f", __context_{n}__" for n in range(len(context)))
        source = f"lambda {str(taking)[1:-1]}: __send__(__method__, ({arguments}){rest})"
        bound: Callable[..., Any] = eval(source, {"__send__": send, "__method__": self, **names})
        bound.__name__, bound.__doc__ = self.name, self.function.__doc__
        return bound

    def decode_arguments(self, arguments: Sequence[msgspec.Raw | None]) -> list[Any]:
        """The arguments of one call; None, and what is missing at the end, have their default.

        Raises:
            TypeError: this is not what the method takes.
        """
        decoded: list[Any] = []
        given = chain(arguments, repeat(None))
        for parameter, decode, raw in zip(self.parameters, self._decoders, given, strict=False):
            if raw is None:
                if parameter.default is parameter.empty:
                    raise TypeError(f"{self.name}() takes an argument {parameter.name!r}")
                decoded.append(parameter.default)
                continue
            try:
                decoded.append(decode(raw))
            except (msgspec.ValidationError, UnicodeDecodeError) as e:
                raise TypeError(f"{self.name}(), argument {parameter.name!r}: {e}") from e
        return decoded


class _Source:
    """Stands for a value in source: shows as its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


def _by_position(
    function: Callable[..., Any], parameters: list[inspect.Parameter]
) -> Callable[..., Any]:
    """The function, taking all its arguments by position."""
    if not any(p.kind is p.KEYWORD_ONLY for p in parameters):
        return function
    taking = ", ".join(p.name for p in parameters)
    passing = ", ".join(
        f"{p.name}={p.name}" if p.kind is p.KEYWORD_ONLY else p.name for p in parameters
    )
    source = f"lambda __machine__, {taking}: __function__(__machine__, {passing})"
    made: Callable[..., Any] = eval(source, {"__function__": function})
    return made


class Declaration:
    """All that a state machine's class says.

    Attributes:
        methods: commands and queries by name; `commands`, `queries`: make calls of either.
        plain: the state's attributes but for tables, and their types; `tables`: the rows' types.
    """

    def __init__(self, owner: type[StateMachine]) -> None:
        self.owner = owner
        self.methods = {
            name: Method(owner, name, function, getattr(function, _MARK))
            for name, function in _marked(owner)
        }
        self.commands = self._dispatcher(COMMAND, OF_THIS_PROCESS)
        self.queries = self._dispatcher(QUERY)
        self.defaults: dict[str, Callable[[], Any]] = {}
        self.plain: dict[str, Any] = {}
        self.tables: dict[str, Any] = {}
        for name, hint, default in _attributes(owner):
            where = f"{owner.__name__}.{name}"
            if typing.get_origin(hint) is Table or hint is Table:
                self.tables[name] = _row_type(hint, where)
                self.defaults[name] = Table
            else:
                check_encodable(hint, where)
                self.plain[name] = hint
                self.defaults[name] = default
        state = msgspec.defstruct(f"{owner.__name__}State", list(self.plain.items()))
        self.decode_plain: Callable[[bytes], Any] = msgspec.msgpack.Decoder(state).decode
        self.decode_rows: dict[str, Callable[[bytes], Any]] = {
            name: msgspec.msgpack.Decoder(list[row]).decode  # type: ignore[valid-type]
            for name, row in self.tables.items()
        }
        if owner.event is not None:
            check_encodable(owner.event, f"{owner.__name__}.event")
        self.decode_event: Callable[[Any], Any] = msgspec.msgpack.Decoder(owner.event or Any).decode

    def _dispatcher(self, kind: str, passed_on: tuple[type[Exception], ...] = ()) -> Dispatcher:
        methods = [method for method in self.methods.values() if method.kind == kind]
        try:
            return Dispatcher(self.owner.__name__, methods, passed_on)
        except TypeError as e:
            raise DeclarationError(f"{self.owner.__name__}: {e}") from e


class StateMachine:
    """Base of replicated objects: annotated attributes are the state, methods change and read it.

    Commands must do the same everywhere: no clock but `now`, no dice but `random`, no file, no
    network, no dependence on the order of a set.  Attributes whose names begin with an underscore
    are not state: they are neither in snapshots nor compared.
    """

    declaration: ClassVar[Declaration]
    event: ClassVar[Any] = None
    """The type of what `emit` is given, if anything."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.declaration = Declaration(cls)
        for name in cls.declaration.defaults:
            if name in vars(cls):
                delattr(cls, name)  # or all instances would share a mutable default

    def __init__(self) -> None:
        self._moment = Moment(0, "")
        self._events: list[Any] = []
        for name, make in self.declaration.defaults.items():
            setattr(self, name, make())

    @property
    def now(self) -> float:
        """The time that came with the command, in seconds since the epoch; never goes back."""
        return self._moment.time_ns / 1e9

    @property
    def random(self) -> random.Random:
        """Dice whose seed came with the command."""
        return self._moment.random

    def emit(self, event: Any) -> None:
        """Tell whoever watches this replica's `events`; not part of the state."""
        self._events.append(event)

    def due(self) -> float | None:
        """The time at which something happens by itself (a lease ends), or None."""
        return None

    def on_due(self) -> None:
        """Called before the commands of each batch, with their time: let happen what is due."""


# ------------------------------------------------------------------ reading the class


def _marked(owner: type) -> Iterable[tuple[str, Callable[..., Any]]]:
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(owner.__mro__):
        for name, value in vars(base).items():
            if getattr(value, _MARK, None) is None:
                found.pop(name, None)
                continue
            if name in RESERVED or name.startswith("_"):
                raise DeclarationError(f"{owner.__name__}.{name}: that name has another meaning")
            found[name] = value
    return found.items()


def _hints(thing: Any, where: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except NameError as e:
        raise DeclarationError(
            f"{where}: {e}; types must be visible where the module is, not inside a function"
        ) from e


def _parameters(
    function: Callable[..., Any], hints: dict[str, Any], where: str
) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DeclarationError(f"{where}: no *args or **kwargs: name and type each argument")
        if parameter.name not in hints:
            raise DeclarationError(f"{where}: say the type of argument {parameter.name!r}")
    return parameters


def _attributes(owner: type) -> Iterable[tuple[str, Any, Callable[[], Any]]]:
    inherited = getattr(super(owner, owner), "declaration", None)
    hints = _hints(owner, owner.__name__)
    for name, hint in hints.items():
        if name.startswith("_") or typing.get_origin(hint) is ClassVar or hint is ClassVar:
            continue
        if name in vars(owner):
            yield name, hint, _maker(vars(owner)[name])
        elif inherited is not None and name in inherited.defaults:
            yield name, hint, inherited.defaults[name]
        elif typing.get_origin(hint) is Table or hint is Table:
            yield name, hint, Table
        else:
            raise DeclarationError(
                f"{owner.__name__}.{name}: give it a value to begin with: all replicas begin alike"
            )


def _maker(default: Any) -> Callable[[], Any]:
    factory = getattr(default, "default_factory", None)  # msgspec.field(default_factory=...)
    if callable(factory):
        made: Callable[[], Any] = factory
        return made
    return lambda: copy.deepcopy(default)


def _row_type(hint: Any, where: str) -> Any:
    arguments = typing.get_args(hint)
    if len(arguments) != 2:
        raise DeclarationError(f"{where}: say of what: Table[str, int]")
    for argument in arguments:
        check_encodable(argument, where)
        _check_immutable(argument, where)
    _check_comparable(arguments[0], where)
    return tuple[arguments]  # type: ignore[valid-type]


def _check_immutable(hint: Any, where: str) -> None:
    for member in _members(hint):
        frozen = getattr(getattr(member, "__struct_config__", None), "frozen", False)
        origin = typing.get_origin(member)
        if member in _IMMUTABLE or frozen:
            continue
        if origin is tuple:
            for inner in typing.get_args(member):
                if inner is not Ellipsis:
                    _check_immutable(inner, where)
            continue
        raise DeclarationError(
            f"{where}: the rows of a Table are immutable: built-in scalars, tuples of them or "
            f"frozen msgspec.Structs, not {member!r}"
        )


def _check_comparable(hint: Any, where: str) -> None:
    """Refuse keys that have no order: they would be found out after the command that sets one."""
    members = set(_members(hint))
    if members in ({str}, {bytes}) or members <= {bool, int, float}:
        return
    if len(members) == 1:
        (kind,) = members
        if typing.get_origin(kind) is tuple:
            for inner in typing.get_args(kind):
                if inner is not Ellipsis:
                    _check_comparable(inner, where)
            return
        if getattr(getattr(kind, "__struct_config__", None), "order", False):
            for inner in typing.get_type_hints(kind, include_extras=True).values():
                _check_comparable(inner, where)
            return
    raise DeclarationError(
        f"{where}: the keys of a Table have an order: numbers, or strings, or bytes, tuples of "
        f"them or msgspec.Structs with order=True, not {hint!r}"
    )


def _members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; a type alone is its only one."""
    if typing.get_origin(hint) is typing.Annotated:
        return _members(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, type(int | str)):
        return typing.get_args(hint)
    return (type(None),) if hint is None else (hint,)


def check_encodable(hint: Any, where: str) -> None:
    """Refuse a type that msgpack cannot carry and bring back.

    Raises:
        DeclarationError: naming the place and the type.
    """
    try:
        info = msgspec.inspect.type_info(hint)
        msgspec.msgpack.Decoder(hint)
    except (TypeError, NameError) as e:
        raise DeclarationError(f"{where}: {_name(hint)} cannot be encoded: {e}") from e
    custom = _find_custom(info, set())
    if custom is not None:
        raise DeclarationError(
            f"{where}: {_name(custom)} cannot be encoded: use built-in types, dataclasses or "
            "msgspec.Structs"
        )


def _name(hint: Any) -> str:
    return repr(getattr(hint, "__name__", hint))


def _find_custom(info: Any, seen: set[Any]) -> Any:
    """The first type in `info` that msgspec does not know how to encode."""
    if isinstance(info, msgspec.inspect.CustomType):
        return info.cls
    if isinstance(info, tuple | list):
        for one in info:
            found = _find_custom(one, seen)
            if found is not None:
                return found
        return None
    if not isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        return None
    cls = getattr(info, "cls", None)
    if cls is not None:
        if cls in seen:
            return None
        seen.add(cls)
    parts = [getattr(info, name) for name in info.__struct_fields__ if name not in ("cls",)]
    return _find_custom([p for p in parts if not isinstance(p, str)], seen)
