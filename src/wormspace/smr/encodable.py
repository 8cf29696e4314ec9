"""What is refused when a class is declared: types that cannot be encoded, keys without an order."""

from __future__ import annotations

import typing
from typing import Any

import msgspec

from wormspace.smr.errors import BadDeclaration


def check_comparable(hint: Any, where: str) -> None:
    """Refuse keys that have no order: they would be found out after the command that sets one."""
    kinds = set(members(hint))
    if kinds in ({str}, {bytes}) or kinds <= {bool, int, float}:
        return
    if len(kinds) == 1:
        (kind,) = kinds
        if typing.get_origin(kind) is tuple:
            for inner in typing.get_args(kind):
                if inner is not Ellipsis:
                    check_comparable(inner, where)
            return
        if getattr(getattr(kind, "__struct_config__", None), "order", False):
            for inner in typing.get_type_hints(kind, include_extras=True).values():
                check_comparable(inner, where)
            return
    raise BadDeclaration(
        f"{where}: the keys of a Table have an order: numbers, or strings, or bytes, tuples of "
        f"them or msgspec.Structs with order=True, not {hint!r}"
    )


def members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; a type alone is its only one."""
    if typing.get_origin(hint) is typing.Annotated:
        return members(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, type(int | str)):
        return typing.get_args(hint)
    return (type(None),) if hint is None else (hint,)


def check_encodable(hint: Any, where: str) -> None:
    """Refuse a type that msgpack cannot carry and bring back.

    Raises:
        BadDeclaration: naming the place and the type.
    """
    try:
        info = msgspec.inspect.type_info(hint)
    except (TypeError, NameError) as e:
        raise BadDeclaration(f"{where}: {_name(hint)} cannot be encoded: {e}") from e
    custom = _find_custom(info, set())
    if custom is not None:
        raise BadDeclaration(
            f"{where}: {_name(custom)} cannot be encoded: use built-in types, dataclasses or "
            "msgspec.Structs"
        )


def may_nest(hint: Any) -> bool:
    """Whether a value of that type can be nested to any depth: it may be anything, or itself."""
    return _is_open(msgspec.inspect.type_info(hint), ())


def _is_open(info: Any, around: tuple[Any, ...]) -> bool:
    if isinstance(info, tuple | list):
        return any(_is_open(one, around) for one in info)
    if isinstance(info, msgspec.inspect.AnyType | msgspec.inspect.RawType):
        return True
    if not isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        return False
    cls = getattr(info, "cls", None)
    if cls is not None:
        if cls in around:
            return True
        around = (*around, cls)
    return _is_open([getattr(info, n) for n in info.__struct_fields__ if n != "cls"], around)


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
