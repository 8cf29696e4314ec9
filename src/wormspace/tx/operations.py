"""Operations on a key-value store, as they travel between processes."""

from __future__ import annotations

import msgspec

from wormspace.errors import UsageError
from wormspace.malformed import MALFORMED

GET, PUT, DELETE = "get", "put", "delete"


class Operation(msgspec.Struct, frozen=True, array_like=True):
    """One operation: GET, PUT or DELETE."""

    kind: str
    key: bytes
    value: bytes = b""


class Found(msgspec.Struct, frozen=True, array_like=True):
    """What a get found."""

    value: bytes | None


_decoder = msgspec.msgpack.Decoder(Operation)
decode_found = msgspec.msgpack.Decoder(Found).decode


def decode_operation(body: bytes) -> Operation:
    """The operation that was sent.

    Raises:
        UsageError: it is none.
    """
    try:
        return _decoder.decode(body)
    except MALFORMED as e:
        raise UsageError(f"not an operation: {e}") from e
