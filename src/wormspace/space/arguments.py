"""What callers pass, checked at the door: before anything is sent, with an error that says what is.

Python lets `True` be an offset and NaN a time-out.  Whatever is wrong is the caller's mistake
(`UsageError`), and concerns nobody else.
"""

from __future__ import annotations

import random
from typing import Any

from wormspace.addresses import MAX_OFFSETS
from wormspace.errors import BadAddress, BadToken, UsageError
from wormspace.registers.token import Token

MAX_TIMEOUT_S = 1e9
"""Some thirty years."""

MAX_SEGMENT_SIZE = MAX_OFFSETS
"""Registers of a segment, at most."""


def as_int(value: Any, what: str) -> int:
    """A whole number.

    Raises:
        BadAddress: it is something else; `True` is no number.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    raise BadAddress(f"{what} is an int, not {_shown(value)}")


def as_bytes(value: Any, what: str) -> bytes:
    """Bytes; a copy of what may change later.

    Raises:
        UsageError: it is something else.
    """
    if type(value) is bytes:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    hint = "; encode it" if isinstance(value, str) else ""
    raise UsageError(f"{what} is bytes, not {_shown(value)}{hint}")


def as_name(value: Any) -> str:
    """A space's name.

    Raises:
        BadAddress: it is empty, too long, or no text that can be written down.
    """
    if not isinstance(value, str):
        raise BadAddress(f"a space name is a str, not {_shown(value)}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as e:
        raise BadAddress(f"a space name is valid Unicode: {e.reason} in {value!a}") from None
    if not 0 < size <= 255:
        raise BadAddress(f"a space name has 1 to 255 bytes, not {size}")
    return str(value)


def as_timeout(value: Any) -> float:
    """A time-out in seconds.

    Raises:
        UsageError: it is no positive number, or has no end.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 < value <= MAX_TIMEOUT_S:
            return float(value)
        raise UsageError(
            f"a timeout is a positive number of seconds, up to {MAX_TIMEOUT_S:g}, not {value}"
        )
    raise UsageError(f"a timeout is a number of seconds, not {_shown(value)}")


def as_rng(value: Any) -> random.Random:
    """A source of random numbers; None for the system's.

    Raises:
        UsageError: it is something else.
    """
    if value is None:
        return random.SystemRandom()
    if isinstance(value, random.Random):
        return value
    raise UsageError(f"rng is a random.Random, not {_shown(value)}")


def as_token(value: Any) -> Token:
    """A capture token.

    Raises:
        BadToken: it is something else.
    """
    if isinstance(value, Token):
        return value
    hint = "; Token.parse reads its text" if isinstance(value, str) else ""
    raise BadToken(f"a token is what a capture returned, not {_shown(value)}{hint}")


def _shown(value: Any) -> str:
    kind = type(value).__name__
    return f"the {kind} {value}" if isinstance(value, bool | float) else kind
