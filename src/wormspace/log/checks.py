"""What callers pass is looked at here, before anything is sent: an entry is for ever.

All of it raises `UsageError`, for a wrong type as well as for a wrong value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wormspace.errors import UsageError
from wormspace.log.records import MAX_POSITION

MAX_ENTRIES = 16_384
"""Entries of one `append_many`, at most."""

MAX_STREAM_BYTES = 255

NO_HEADERS: Mapping[str, str] = {}


def check_bodies(bodies: Sequence[bytes]) -> tuple[bytes, ...]:
    """Bodies as they are appended: a copy, if they are of a kind that can change."""
    if isinstance(bodies, bytes | bytearray | memoryview | str):
        raise UsageError(f"append_many takes a list of bytes, not {type(bodies).__name__}")
    try:
        given = tuple(bodies)
    except TypeError:
        kind = type(bodies).__name__
        raise UsageError(f"append_many takes a list of bytes, not {kind}") from None
    if len(given) > MAX_ENTRIES:
        raise UsageError(f"at most {MAX_ENTRIES} entries at a time, not {len(given)}")
    return given if set(map(type, given)) <= {bytes} else tuple(map(check_body, given))


def check_body(body: bytes) -> bytes:
    """An entry's body as it is appended: a copy, if it is of a kind that can change."""
    if type(body) is bytes:
        return body
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    hint = "; encode it first" if isinstance(body, str) else ""
    raise UsageError(f"an entry's body is bytes, not {type(body).__name__}{hint}")


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """A copy of the headers of an entry."""
    if not isinstance(headers, Mapping):
        raise UsageError(f"headers map str to str, not {type(headers).__name__}")
    return {_text(key, "a header's key"): _text(headers[key], "a header") for key in headers}


def check_streams(streams: Sequence[str]) -> tuple[str, ...]:
    """The streams of an entry, each once."""
    if isinstance(streams, str) or not isinstance(streams, Sequence | set | frozenset):
        kind = type(streams).__name__
        raise UsageError(f"streams are a list of names, not {kind}; try streams=[...]")
    return tuple(dict.fromkeys(map(check_stream, streams)))


def check_stream(name: str) -> str:
    """A stream's name, if it can be one."""
    size = len(_text(name, "a stream's name").encode())
    if not 0 < size <= MAX_STREAM_BYTES:
        raise UsageError(f"a stream's name has 1 to {MAX_STREAM_BYTES} bytes, not {size}")
    return name


def check_position(position: int, what: str = "a position") -> int:
    """A position, if it can be one."""
    if not isinstance(position, int) or isinstance(position, bool):
        raise UsageError(f"{what} is an int, not {type(position).__name__}")
    if not 0 <= position < MAX_POSITION:
        raise UsageError(f"{what} is 0 or more and below 2**62, not {position}")
    return position


def check_amount(amount: float, what: str) -> float:
    """A number of seconds or bytes."""
    if not isinstance(amount, int | float) or isinstance(amount, bool):
        raise UsageError(f"{what} is a number, not {type(amount).__name__}")
    if not 0 <= amount < MAX_POSITION:
        raise UsageError(f"{what} is a number from 0 on, not {amount}")
    return amount


def check_flag(given: bool, what: str) -> None:
    """True or False: a word that means no would be taken for yes."""
    if not isinstance(given, bool):
        raise UsageError(f"{what} is True or False, not {given!r}")


def check_choice(given: Any, what: str, choices: tuple[Any, ...]) -> None:
    """One of a few words."""
    if not isinstance(given, str) or given not in choices:
        raise UsageError(f"{what} is one of {', '.join(map(repr, choices))}, not {given!r}")


def _text(given: str, what: str) -> str:
    if not isinstance(given, str):
        raise UsageError(f"{what} is a str, not {type(given).__name__}")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} is text that UTF-8 can encode, not {given!r}") from None
    return given
