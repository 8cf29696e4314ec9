"""The same bytes for equal values, on every replica: what is hashed, and so compared.

A set has no order, and a dictionary that of its history: two replicas may hold equal ones and
iterate over them differently.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

_encode = msgspec.msgpack.Encoder().encode
_encode_in_order = msgspec.msgpack.Encoder(order="deterministic").encode


def encode_canonical(value: Any) -> bytes:
    """Encode with the members of sets and dictionaries in order.

    Raises:
        TypeError, ValueError, OverflowError: it cannot be encoded.
    """
    try:
        return _encode_in_order(value)
    except TypeError:
        # msgspec orders only dictionaries whose keys are strings.
        return _encode(_in_order(value))


def _in_order(value: Any) -> Any:
    """The same, but that sets are lists and dictionaries are filled anew, in order."""
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value, key=encode_canonical)}
    if isinstance(value, set | frozenset):
        return [msgspec.Raw(raw) for raw in sorted(map(encode_canonical, value))]
    if isinstance(value, list | tuple):
        return [_in_order(one) for one in value]
    if isinstance(value, msgspec.Struct):
        fields = {name: _in_order(getattr(value, name)) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **fields)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _in_order(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value
