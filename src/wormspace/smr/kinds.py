"""What a declared type allows in the state: immutable values, in dictionaries, lists and sets.

A value becomes part of the state as what it would be if it were encoded and decoded again, by its
declared type: so a replica that was restored from a snapshot has the very values of one that was
not, and what cannot be encoded never gets in.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect

from wormspace.malformed import MALFORMED
from wormspace.smr.errors import BadDeclaration
from wormspace.smr.nesting import MAX_NESTING, is_nested_too_deep
from wormspace.smr.records import encode

INT_MIN, INT_MAX = -(2**63), 2**64 - 1
"""What msgpack can carry."""

_SCALARS = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BytesType,
    inspect.DateTimeType,
    inspect.TimeType,
    inspect.DateType,
    inspect.TimeDeltaType,
    inspect.UUIDType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.LiteralType,
)
_CONTAINERS: dict[Any, type] = {
    inspect.DictType: dict,
    inspect.ListType: list,
    inspect.SetType: set,
}
_GLANCES: dict[Any, str] = {
    int: f"type({{0}}) is int and {INT_MIN} <= {{0}} <= {INT_MAX}",
    str: "type({0}) is str and {0}.isascii()",
    bytes: "type({0}) is bytes",
    float: "type({0}) is float and {0} == {0}",  # each not-a-number is one of its own
    bool: "type({0}) is bool",
    type(None): "{0} is None",
}


class Normal:
    """A type whose values can be encoded, and come back as what they are.

    Attributes:
        check: the value as it comes back; raises if it is not of this type.
        glance: source of a condition on `{}` that shows at once that nothing needs to be done.
    """

    def __init__(self, hint: Any, where: str) -> None:
        self.hint = hint
        self.where = where
        self.decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(hint).decode
        self.glance = _glance(hint)
        self.check: Callable[[Any], Any] = self.normal
        if self.glance != "False":
            source = f"lambda v: v if {self.glance.format('v')} else __normal__(v)"
            self.check = eval(source, {"__normal__": self.normal})

    def normal(self, value: Any) -> Any:
        """The value, encoded and decoded again.

        Raises:
            TypeError, ValueError, OverflowError: it is not of this type, or cannot be encoded.
        """
        try:
            raw = encode(value)
            if is_nested_too_deep(raw):
                raise TypeError(f"values are nested more than {MAX_NESTING} deep")
            return self.decode(raw)
        except OverflowError as e:
            raise OverflowError(f"{self.where}: {e}") from None
        except UnicodeError as e:
            raise ValueError(f"{self.where}: {e}") from None
        except (TypeError, ValueError, *MALFORMED) as e:
            raise TypeError(f"{self.where}: {e}") from None


class Kind(Normal):
    """A type whose values can be part of the state.

    Attributes:
        container: `dict`, `list` or `set`; None for values, and where it depends on the value.
        is_value: whether all its values are immutable.
        key, item: of what is in a container.
        decode_items: an array of what is in a container; pairs, if it is a dictionary.
    """

    decode_items: Callable[[bytes], list[Any]]

    def __init__(self, hint: Any, where: str, *, is_key: bool = False) -> None:
        super().__init__(hint, where)
        bare = bare_type(hint)
        info = inspect.type_info(hint)
        self.is_value = is_immutable(info)
        self.container: type | None = _CONTAINERS.get(type(info))
        self.key: Kind | None = None
        self.item: Kind | None = None
        self._members: dict[type, Kind] = {}
        arguments = typing.get_args(bare) or (Any, Any)
        if self.container is not None:
            self.key = Kind(arguments[0], where, is_key=True) if self.container is dict else None
            self.item = Kind(arguments[-1], where, is_key=self.container is set)
        elif isinstance(info, inspect.UnionType) and not self.is_value:
            for member in arguments:
                kind = Kind(member, where)
                if kind.container is not None:
                    self._members[kind.container] = kind
        elif not self.is_value and not isinstance(info, inspect.AnyType):
            raise BadDeclaration(
                f"{where}: {getattr(bare, '__name__', bare)!r} can be changed in place, unseen: "
                "state is built of dictionaries, lists, sets and immutable values; use a frozen "
                "msgspec.Struct or dataclass with immutable fields, and put a new one in its place"
            )
        if self.container is not None:
            item: Any = arguments[-1]
            if self.container is dict:
                item = tuple[arguments[0], item]  # type: ignore[valid-type]
            self.decode_items = msgspec.msgpack.Decoder(list[item]).decode
        if is_key and bare not in (int, str, bytes, bool):
            self.check = self._check_key

    def of(self, value: Any) -> Kind:
        """What a value of this kind is: a container's kind, or this one."""
        if self.container is not None or self.is_value:
            return self
        for container, kind in (self._members or _ANYTHING).items():
            if isinstance(value, container):
                return kind
        return self

    def _check_key(self, value: Any) -> Any:
        value = self.normal(value)
        _refuse_nan(value, self.where)
        return value


def _refuse_nan(value: Any, where: str) -> None:
    """What is not even equal to itself is never found again."""
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{where}: not-a-number cannot be a key")
    if isinstance(value, tuple):
        for one in value:
            _refuse_nan(one, where)


def _glance(hint: Any) -> str:
    """See `Normal.glance`; "False" if there is no such condition."""
    bare = bare_type(hint)
    if hint is not bare and hint is not None:
        return "False"  # with constraints
    if typing.get_origin(bare) in (typing.Union, types.UnionType):
        glances = [_glance(member) for member in typing.get_args(bare)]
        known = [one for one in glances if one != "False"]
        return f"({' or '.join(known)})" if known else "False"
    return _GLANCES.get(bare, "False")


def is_immutable(info: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Whether all values of a type, as msgspec describes it, are immutable, all the way down."""
    if isinstance(info, _SCALARS):
        return True
    cls = getattr(info, "cls", None)
    if cls is not None:
        if cls in seen:
            return True  # a type that contains itself: it is looked at already
        seen |= {cls}
    if isinstance(info, inspect.TupleType):
        return all(is_immutable(one, seen) for one in info.item_types)
    if isinstance(info, inspect.VarTupleType | inspect.FrozenSetType):
        return is_immutable(info.item_type, seen)
    if isinstance(info, inspect.UnionType):
        return all(is_immutable(one, seen) for one in info.types)
    if isinstance(info, inspect.StructType):
        frozen = info.cls.__struct_config__.frozen
    elif isinstance(info, inspect.DataclassType):
        params = getattr(info.cls, "__dataclass_params__", None)
        frozen = params is not None and params.frozen
    else:
        frozen = isinstance(info, inspect.NamedTupleType)
    return frozen and all(is_immutable(one.type, seen) for one in info.fields)


def bare_type(hint: Any) -> Any:
    """The type without what is annotated, and without the names it was given."""
    if typing.get_origin(hint) is typing.Annotated:
        return bare_type(typing.get_args(hint)[0])
    if isinstance(hint, typing.NewType):
        return bare_type(hint.__supertype__)
    value = getattr(hint, "__value__", None)  # `type X = ...`
    if value is not None and not isinstance(hint, type):
        return bare_type(value)
    return type(None) if hint is None else hint


_ANYTHING: dict[type, Kind] = {}
for _hint in (dict[Any, Any], list[Any], set[Any]):
    _ANYTHING[typing.cast("type", typing.get_origin(_hint))] = Kind(
        _hint, "what was put into the state"
    )


def describe(info: Any, seen: frozenset[Any] = frozenset()) -> str:
    """A type, as msgspec describes it, in words that are equal for equal encodings."""
    if isinstance(info, inspect.Field):
        return f"{info.encode_name}: {describe(info.type, seen)}"
    name = type(info).__name__.removesuffix("Type").lower()
    cls = getattr(info, "cls", None)
    if cls is not None:
        name = str(cls.__name__)
        if cls in seen:
            return name
        seen |= {cls}
    if isinstance(info, inspect.EnumType):
        return f"{name}({', '.join(sorted(repr(one.value) for one in info.cls))})"
    parts = []
    for field in info.__struct_fields__:
        held = getattr(info, field)
        if field == "cls" or held is None or (held is False and field != "tz"):
            continue  # but 0 is a bound, and without a time zone is not with or without
        if isinstance(held, inspect.Type | inspect.Field):
            parts.append(describe(held, seen))
        elif isinstance(held, tuple):
            parts += [
                describe(one, seen) if isinstance(one, inspect.Type | inspect.Field) else repr(one)
                for one in held
            ]
        else:
            parts.append(f"{field}={held!r}")
    return f"{name}({', '.join(parts)})" if parts else name
