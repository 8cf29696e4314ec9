"""The shape of a class: all that its replicas must agree on, as far as it can be seen.

Names, types and first values of attributes, and what commands take and return.  What the body of a
command does cannot be compared: two bodies may do the same, and one may call something that was
changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import msgspec

from wormspace.smr.canonical import encode_canonical
from wormspace.smr.errors import BadDeclaration
from wormspace.smr.kinds import Kind, describe
from wormspace.smr.methods import Method

Shape: TypeAlias = dict[str, str]
"""What is declared, by name: "stock" or "reserve()", in words."""


class State(Protocol):
    """The state's attributes, as `declare.Declaration` has them."""

    @property
    def plain(self) -> Mapping[str, Kind]: ...
    @property
    def tables(self) -> Mapping[str, tuple[Kind, Kind]]: ...


class Declared(State, Protocol):
    """All that a shape is made of."""

    @property
    def types(self) -> Shape: ...
    @property
    def defaults(self) -> Mapping[str, Callable[[], Any]]: ...
    @property
    def methods(self) -> Mapping[str, Method]: ...


def types_of(declaration: State) -> Shape:
    """The types of the state's attributes."""
    types = {name: _type(kind.hint) for name, kind in declaration.plain.items()}
    for name, (key, row) in declaration.tables.items():
        types[name] = f"Table({_type(key.hint)}, {_type(row.hint)})"
    return types


def shape_of(declaration: Declared) -> Shape:
    """The shape that a class declares."""
    shape = dict(declaration.types)
    for name, kind in declaration.plain.items():
        shape[name] += f" = {_first(declaration.defaults[name], kind.where)}"
    for name, method in declaration.methods.items():
        if method.kind == "command":
            shape[f"{name}()"] = _signature(method)
    return dict(sorted(shape.items()))


def differences(here: Shape, there: Shape) -> str:
    """What two shapes differ in, for people; empty if they are equal."""
    found = [
        f"{name}: {there.get(name, 'nothing')} there, {here.get(name, 'nothing')} here"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    return "; ".join(found)


def _type(hint: Any) -> str:
    return describe(msgspec.inspect.type_info(hint))


def _first(make: Any, where: str) -> str:
    first = _digest(make())
    if first != _digest(make()):
        raise BadDeclaration(
            f"{where}: its value to begin with is not the same each time: all replicas begin alike"
        )
    return first


def _digest(value: Any) -> str:
    if isinstance(value, bool | int | float | None):
        return repr(value)
    return hashlib.blake2b(encode_canonical(value), digest_size=4).hexdigest()


def _signature(method: Method) -> str:
    parts = []
    for parameter, takes in zip(method.parameters, method.takes, strict=True):
        default = ""
        if parameter.default is not parameter.empty:
            default = f" = {_digest(parameter.default)}"
        parts.append(f"{parameter.name}: {_type(takes.hint)}{default}")
    return f"({', '.join(parts)}) -> {_type(method.returns.hint)}"
