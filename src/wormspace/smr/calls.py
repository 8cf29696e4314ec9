"""Calls as they travel, and how they are made: a column of arguments for each parameter.

Calls that travel together are many, and of few methods.  By columns, a thousand calls of one method
are a few long arrays: no object is made, and freed again, to carry the arguments of each, by the
caller or by any replica, and a method is called straight from its columns.

    calls   runs, groups
    run     which group, and how many of its calls come next
    group   a method's name, and for each of its parameters the arguments of all its calls
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice, repeat, starmap
from typing import Annotated, Any, TypeAlias

import msgspec

from wormspace.malformed import MALFORMED
from wormspace.smr.canonical import encode_canonical
from wormspace.smr.methods import Method
from wormspace.smr.nesting import MAX_NESTING, is_nested_too_deep
from wormspace.smr.records import Fault, Outcome, encode

MAX_CALLS = 1 << 12
"""So many travel together at most; nothing else limits those that have no arguments."""

MAX_OUTCOME_BYTES = 8 << 20
"""The results of calls that travel together are no larger: a message is at most twice as large."""

OF_THIS_PROCESS = (MemoryError,)
"""Exceptions that say something about a process, and need not come elsewhere."""

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_CALLS)]
_Runs: TypeAlias = list[tuple[_Count, _Count]]
_Column: TypeAlias = Iterable[Any]
_Results: TypeAlias = Iterator[Any]

_decode_loosely = msgspec.msgpack.Decoder(tuple[_Runs, list[list[msgspec.Raw]]]).decode
_decode_name = msgspec.msgpack.Decoder(str).decode
_decode_anything = msgspec.msgpack.Decoder().decode
_decode_column = msgspec.msgpack.Decoder(list[msgspec.Raw] | None).decode


_NESTING = 4 + MAX_NESTING
"""The calls, their groups, a group and a column are around each value."""

_TOO_DEEP = f"values are nested more than {MAX_NESTING} deep"


class Malformed(Exception):
    """These bytes are no calls."""


def encode_calls(methods: Sequence[Method], arguments: Sequence[tuple[Any, ...]]) -> bytes:
    """Calls, given by their methods and all arguments of each.

    Raises:
        TypeError, ValueError, OverflowError: some argument cannot be encoded.
    """
    places: dict[Method, int] = {}
    rows: list[list[tuple[Any, ...]]] = []
    runs: list[tuple[int, int]] = []
    at = 0
    for method, run in groupby(methods):
        count = len(list(run))
        place = places.setdefault(method, len(rows))
        if place == len(rows):
            rows.append([])
        rows[place] += arguments[at : at + count]
        runs.append((place, count))
        at += count
    groups = [(method.name, *zip(*rows[place], strict=True)) for method, place in places.items()]
    return encode((runs, groups))


class Dispatcher:
    """Makes calls of certain methods.

    Args:
        owner: whose methods these are, for people.
        passed_on: exceptions that are not the call's result.

    Raises:
        TypeError: they cannot be told apart.
    """

    def __init__(
        self, owner: str, methods: Sequence[Method], passed_on: tuple[type[Exception], ...] = ()
    ) -> None:
        self._owner = owner
        self._passed_on = passed_on
        self._by_name = {method.name: method for method in methods}
        self._by_columns = {method.columns: method for method in methods}
        self._may_nest = any(method.may_nest for method in methods)
        columns = tuple(self._by_columns)
        group: Any = typing.Union[columns] if columns else msgspec.UnsetType  # noqa: UP007
        calls: Any = tuple[_Runs, list[group]]
        self._decode: Callable[[bytes], tuple[_Runs, list[msgspec.Struct]]]
        self._decode = msgspec.msgpack.Decoder(calls).decode

    def run(self, machine: Any, raw: bytes) -> tuple[list[Any], dict[int, Fault]]:
        """Make the calls, in order.

        Returns:
            What they returned, and of those that raised an exception, which; it is their result.

        Raises:
            Malformed: these are no calls; none was made.
        """
        runs, groups = self._prepare(machine, raw)
        values: list[Any] = []
        faults: dict[int, Fault] = {}
        for place, count in runs:
            end = len(values) + count
            while len(values) < end:
                try:
                    values.extend(islice(groups[place], end - len(values)))
                except self._passed_on:
                    raise
                except Exception as e:  # noqa: BLE001 - an exception is the call's result
                    fault = as_fault(e)
                else:
                    if len(values) == end:
                        break
                    # A call raised it; whoever iterates takes it for the end.
                    fault = as_fault(StopIteration())
                faults[len(values)] = fault
                values.append(None)
        return values, faults

    def _prepare(self, machine: Any, raw: bytes) -> tuple[_Runs, list[_Results]]:
        """The runs, and what makes the calls of each group, one after the other."""
        if self._may_nest and is_nested_too_deep(raw, _NESTING):
            raise Malformed(_TOO_DEEP)
        try:
            runs, groups = self._decode(raw)
            columns = [self._columns(group) for group in groups]
        except (msgspec.ValidationError, UnicodeDecodeError, RecursionError):
            return self._prepare_singly(machine, raw)
        except msgspec.DecodeError as e:
            raise Malformed(str(e)) from e
        _check(runs, columns)
        methods = [self._by_columns[type(group)] for group in groups]
        return runs, [
            map(method.run, repeat(machine), *held)
            for method, held in zip(methods, columns, strict=True)
        ]

    def _columns(self, group: msgspec.Struct) -> list[_Column]:
        """A column for each parameter; one that the caller did not know of has its default."""
        columns: list[_Column] = []
        parameters = self._by_columns[type(group)].parameters
        for parameter, column in zip(parameters, msgspec.structs.astuple(group), strict=True):
            if column is not None:
                columns.append(column)
            elif parameter.default is parameter.empty:
                raise msgspec.ValidationError(f"no {parameter.name}")
            else:
                columns.append(repeat(parameter.default))
        return columns

    def _prepare_singly(self, machine: Any, raw: bytes) -> tuple[_Runs, list[_Results]]:
        """The same where some call is not what was declared: that one raises a `TypeError`."""
        if is_nested_too_deep(raw, _NESTING):
            raise Malformed(_TOO_DEEP)
        try:
            runs, groups = _decode_loosely(raw)
            names = [_decode_name(group[0]) for group in groups]
            columns = [[_loose_column(one) for one in group[1:]] for group in groups]
        except (IndexError, *MALFORMED) as e:
            raise Malformed(str(e)) from e
        _check(runs, columns)
        return runs, [
            starmap(self._single(machine, name), zip(*held, strict=False) if held else repeat(()))
            for name, held in zip(names, columns, strict=True)
        ]

    def _single(self, machine: Any, name: str) -> Callable[..., Any]:
        """Makes one call, given its arguments still encoded."""
        method = self._by_name.get(name)

        def call(*arguments: msgspec.Raw | None) -> Any:
            if method is None:
                raise TypeError(f"{self._owner} has no {name!r}")
            return method.run(machine, *method.decode_arguments(arguments))

        return call


def _loose_column(raw: msgspec.Raw) -> _Column:
    column = _decode_column(raw)
    return repeat(None) if column is None else column


def _check(runs: _Runs, groups: list[list[_Column]]) -> None:
    """Make sure that there are as many arguments as calls.

    Raises:
        Malformed: there are not.
    """
    counts = [0] * len(groups)
    for place, count in runs:
        if place >= len(groups):
            raise Malformed(f"there is no group {place}")
        counts[place] += count
    if sum(counts) > MAX_CALLS:
        raise Malformed(f"more than {MAX_CALLS} calls")
    for count, columns in zip(counts, groups, strict=True):
        if any(isinstance(column, list) and len(column) != count for column in columns):
            raise Malformed("there are not as many arguments as calls")


def encode_outcome(values: list[Any], faults: dict[int, Fault]) -> bytes:
    """What came of calls; a result that cannot be encoded (2**70, a lone surrogate) is a fault."""
    try:
        outcome = _encode_outcome(values, faults)
        if len(outcome) <= MAX_OUTCOME_BYTES:
            return outcome
        _travels(values, faults)
        return _encode_outcome(values, faults)
    except (TypeError, ValueError, OverflowError):
        for index, value in enumerate(values):
            try:
                encode_canonical(value)
            except (TypeError, ValueError, OverflowError) as e:
                values[index] = None
                faults[index] = as_fault(e)
        return _encode_outcome(values, faults)


def _travels(values: list[Any], faults: dict[int, Fault]) -> None:
    """Keep what fits into one message; a result that does not is a fault."""
    rest = MAX_OUTCOME_BYTES
    for index, value in enumerate(values):
        size = len(encode_canonical(value))
        if size > rest:
            values[index] = None
            faults[index] = as_fault(
                ValueError(
                    f"it was made, but its result, of {size} bytes, is too large to travel, by "
                    "itself or with those of other calls: let it return less, and call it again "
                    "for the rest"
                )
            )
        else:
            rest -= size


def _encode_outcome(values: list[Any], faults: dict[int, Fault]) -> bytes:
    # The faults are a dictionary of numbers, which take longer to bring into order.
    in_order: Any = msgspec.Raw(encode_canonical(values))
    return encode(Outcome(in_order, faults))


def as_fault(error: Exception) -> Fault:
    """An exception as a result."""
    if isinstance(error, RecursionError):  # its text tells how far it came, by chance
        text = "maximum recursion depth exceeded"
        return Fault("RecursionError", text, [text])
    try:
        # A copy, for a later call may change what it refers to.
        arguments = _decode_anything(encode_canonical(error.args))
    except Exception:  # noqa: BLE001 - some argument cannot be encoded: its text must do
        return Fault(type(error).__name__, str(error))
    return Fault(type(error).__name__, str(error), arguments)
