"""Commands and queries: what each takes and returns, how it is called, and how it is run.

A command is run as a whole: if it raises an exception, or does to the state what was not declared,
it fails and has changed nothing.  A query cannot change anything.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Any, Protocol, TypeVar

import msgspec

from wormspace.malformed import MALFORMED
from wormspace.smr.canonical import encode_canonical
from wormspace.smr.encodable import check_encodable, may_nest, members
from wormspace.smr.errors import BadDeclaration
from wormspace.smr.kinds import Normal
from wormspace.smr.records import encode
from wormspace.smr.undo_journal import UndoJournal

F = TypeVar("F", bound=Callable[..., Any])

MARK = "__wormspace_kind__"
COMMAND, QUERY = "command", "query"
_RUNS_LATER = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_IMMUTABLE = (type(None), bool, int, float, str, bytes)


class Machine(Protocol):
    """What running a method needs of a state machine: a way to take back what it did."""

    _journal: UndoJournal
    _events: list[Any]


def command(function: F) -> F:
    """Mark a method as a command: it may change the state, and every replica runs it.

    Raises:
        BadDeclaration: it is no method, or one that does not run to its end at once.
    """
    return _marked(function, COMMAND)


def query(function: F) -> F:
    """Mark a method as a query: it must not change the state, and one replica runs it.

    Raises:
        BadDeclaration: it is no method, or one that does not run to its end at once.
    """
    return _marked(function, QUERY)


def _marked(function: F, kind: str) -> F:
    if not inspect.isfunction(function):
        raise BadDeclaration(f"@{kind} stands before a method, not {function!r}")
    if function.__code__.co_flags & _RUNS_LATER:
        raise BadDeclaration(
            f"{function.__qualname__}: a {kind} runs to its end at once: no `async`, no `yield`"
        )
    setattr(function, MARK, kind)
    return function


def is_trusted(owner: type) -> bool:
    """Whether a class's commands check everything before they change anything.

    A promise of ready-made types, which a test holds them to: their changes need not be undone.
    """
    return bool(vars(owner).get("_checks_first"))


def run_whole(machine: Machine, call: Callable[..., Any], arguments: tuple[Any, ...] = ()) -> Any:
    """Call what changes the state machine; if it fails, it has changed nothing.

    Raises:
        RuntimeError: it tried to end the process or its task.
        Exception: whatever it raises, or what is wrong with the state that it leaves.
    """
    emitted = len(machine._events)
    machine._journal.begin()
    try:
        result = call(machine, *arguments)
        machine._journal.commit()
    except BaseException as e:
        _take_back(machine, emitted, e)
        raise
    return result


def _take_back(machine: Machine, emitted: int, error: BaseException) -> None:
    """What was called has failed, and had emitted more than so many events.

    Raises:
        RuntimeError: it tried to end the process or its task.
    """
    machine._journal.roll_back()
    del machine._events[emitted:]
    if not isinstance(error, Exception | KeyboardInterrupt):
        raise RuntimeError(f"{type(error).__name__}: {error}") from None


class Method:
    """One command or query: what it takes, how a caller calls it, and how a state machine runs it.

    Attributes:
        parameters: what it takes.
        columns: the struct that carries the arguments of many calls; see `calls`.
        call: runs it on a state machine, all arguments by position.
        run: the same for an outcome: as a whole or not at all, and what a later command could
            change is returned encoded.
        may_nest: whether an argument can be nested as deep as a caller likes.
        is_plain: whether results are immutable built-ins: safe to hand out as they are.
        decode: a result from its encoding.
    """

    def __init__(self, owner: type, name: str, function: Callable[..., Any], kind: str) -> None:
        self.name = name
        self.kind = kind
        self.function = function
        where = f"{owner.__name__}.{name}"
        hints = hints_of(function, where)
        self.parameters = _parameters(function, hints, where)
        if "return" not in hints:
            raise BadDeclaration(f"{where}: say what it returns: `-> None` if nothing")
        for parameter in self.parameters:
            check_encodable(hints[parameter.name], f"{where}: argument {parameter.name!r}")
        check_encodable(hints["return"], f"{where}: its result")
        types = [hints[parameter.name] for parameter in self.parameters]
        self.takes = [
            Normal(hints[p.name], f"{where}(), argument {p.name!r}") for p in self.parameters
        ]
        self.returns = Normal(hints["return"], f"{where}(), its result")
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
        self.may_nest = any(may_nest(kind) for kind in types)
        self.decode: Callable[[Any], Any] = msgspec.msgpack.Decoder(hints["return"]).decode
        self.is_plain = all(t in _IMMUTABLE for t in members(hints["return"]))
        self.call = _by_position(function, self.parameters)
        self.run: Callable[..., Any]
        if is_trusted(owner):
            self.run = self.call if self.is_plain else self._run_encoding
        else:
            self.run = self._run_query if kind == QUERY else self._running_whole()

    def _run_encoding(self, machine: Machine, *arguments: Any) -> msgspec.Raw:
        encode_result = encode_canonical if self.kind == COMMAND else encode
        return msgspec.Raw(encode_result(self.call(machine, *arguments)))

    def _run_query(self, machine: Machine, *arguments: Any) -> Any:
        with machine._journal.closed(self.name):
            result = self.call(machine, *arguments)
            return result if self.is_plain else msgspec.Raw(encode(result))

    def _running_whole(self) -> Callable[..., Any]:
        """`run_whole` for this command, which looks at its result, too.

        Written as source: it is run for each command, and each call within it would cost.
        """
        passing = "".join(f", argument_{n}" for n in range(len(self.parameters)))
        glance = self.returns.glance.format("result") if self.is_plain else "False"
        source = f"""
def run(machine{passing}):
    journal, emitted = machine._journal, len(machine._events)
    journal.undo = []
    try:
        result = call(machine{passing})
        if not ({glance}):
            result = check(result)
        journal.commit()
    except BaseException as e:
        take_back(machine, emitted, e)
        raise
    return result
"""
        names: dict[str, Any] = {"call": self.call, "take_back": _take_back}
        names["check"] = self.returns.check if self.is_plain else self._encoded
        exec(source, names)
        run: Callable[..., Any] = names["run"]
        return run

    def _encoded(self, result: Any) -> msgspec.Raw:
        """A command's result; what was not declared is a failure of the command."""
        raw = encode_canonical(result)
        try:
            self.decode(raw)
        except (UnicodeError, *MALFORMED) as e:
            raise TypeError(f"{self.returns.where}: {e}") from None
        return msgspec.Raw(raw)

    def bind(self, send: Callable[..., Any], *context: Any) -> Callable[..., Any]:
        """A function with this method's own parameters: calls `send(method, arguments, *context)`.

        It raises at once what is wrong with an argument, before anything is sent.  Written as
        source, as dataclasses do: Python itself puts the arguments in order, in a quarter of the
        time.
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
        names |= {
            f"__check_{p.name}__": t.check for p, t in zip(self.parameters, self.takes, strict=True)
        }
        arguments = "".join(
            f"{p.name} if {takes.glance.format(p.name)} else __check_{p.name}__({p.name}), "
            for p, takes in zip(self.parameters, self.takes, strict=True)
        )
        rest = "".join(f", __context_{n}__" for n in range(len(context)))
        source = f"lambda {str(taking)[1:-1]}: __send__(__method__, ({arguments}){rest})"
        bound: Callable[..., Any] = eval(source, {"__send__": send, "__method__": self, **names})
        bound.__name__, bound.__doc__ = self.name, self.function.__doc__
        bound.__qualname__ = self.function.__qualname__  # what Python says of arguments begins so
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
            except MALFORMED as e:
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


def hints_of(thing: Any, where: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except NameError as e:
        raise BadDeclaration(
            f"{where}: {e}; types must be visible where the module is, not inside a function"
        ) from e


def _parameters(
    function: Callable[..., Any], hints: dict[str, Any], where: str
) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise BadDeclaration(f"{where}: no *args or **kwargs: name and type each argument")
        if parameter.name not in hints:
            raise BadDeclaration(f"{where}: say the type of argument {parameter.name!r}")
    return parameters
