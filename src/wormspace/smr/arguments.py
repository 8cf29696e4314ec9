"""What `replicate` and `attach` are passed, checked at the door.

A replica's name, host and port go into the metadata that all replicas read: what they could not
read would stop every one of them, for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from wormspace.errors import UsageError
from wormspace.smr.consistency import Causal, Consistency, Eventual, Linearizable, Sequential
from wormspace.smr.declare import StateMachine

LEVELS = (Linearizable, Sequential, Causal, Eventual)

MAX_NAME_BYTES = 255
LAST_NS = 1 << 63
"""Nanoseconds since the epoch, in the year 2262."""


def as_machine(value: Any) -> Any:
    """A state machine's class.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, type):
        hint = ": pass the class and not an object of it" if isinstance(value, StateMachine) else ""
        raise UsageError(f"a state machine is a class, not {type(value).__name__}{hint}")
    if not issubclass(value, StateMachine) or value is StateMachine:
        raise UsageError(f"use a subclass of StateMachine, not {value.__name__}")
    return value


def as_level(value: Any) -> Consistency:
    """A consistency level.

    Raises:
        UsageError: it is something else, a level's class for instance.
    """
    if isinstance(value, LEVELS):
        return value
    if value in LEVELS:
        raise UsageError(f"a consistency level is an object: {value.__name__}() with parentheses")
    names = ", ".join(f"{level.__name__}()" for level in LEVELS)
    raise UsageError(f"a consistency level is one of {names}, not {_shown(value)}")


def as_text(value: Any, what: str) -> str:
    """A short text that others can read.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(value, str):
        raise UsageError(f"{what} is a str, not {_shown(value)}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{what} is valid Unicode, not {value!a}") from None
    if size > MAX_NAME_BYTES:
        raise UsageError(f"{what} has at most {MAX_NAME_BYTES} bytes, not {size}")
    return str(value)


def as_port(value: Any, least: int) -> int:
    """A port's number.

    Raises:
        UsageError: it is none.
    """
    if type(value) is int and least <= value < 1 << 16:
        return value
    raise UsageError(f"a port is an int from {least} to 65535, not {value!r}")


def as_addresses(value: Any) -> list[tuple[str, int]]:
    """Hosts and ports.

    Raises:
        UsageError: it is none, or something else.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise UsageError(f"addresses are a list of (host, port), not {_shown(value)}")
    found = []
    for address in value:
        if not isinstance(address, tuple | list) or len(address) != 2:
            raise UsageError(f"an address is a pair of a host and a port, not {address!r}")
        found.append((as_text(address[0], "a host"), as_port(address[1], 1)))
    if not found:
        raise UsageError("name the address of at least one replica")
    return found


def as_choice(value: Any, what: str, method: str) -> Any:
    """A strategy object, told by its method.

    Raises:
        UsageError: it has no such method, or is a class.
    """
    if isinstance(value, type):
        raise UsageError(f"{what} is an object: {value.__name__}() with parentheses")
    if not callable(getattr(value, method, None)):
        raise UsageError(f"{what} has a method {method!r}, and {type(value).__name__} has none")
    return value


def as_clock(value: Any) -> Callable[[], float]:
    """A clock that says a time that commands can have.

    Raises:
        UsageError: it is none.
    """
    now = value() if callable(value) else value
    if callable(value) and type(now) in (int, float) and abs(now * 1e9) < LAST_NS:
        return value  # type: ignore[no-any-return]
    raise UsageError(
        f"a clock is a function that returns seconds since the epoch, and this is {now!r}"
    )


def as_number(value: Any, what: str, least: float) -> None:
    """Check a finite number that is at least so large.

    Raises:
        UsageError: it is none.
    """
    if type(value) not in (int, float) or not least <= value < math.inf:
        raise UsageError(f"{what} is a number, {least:g} or more, not {value!r}")


def as_count(value: Any, what: str, least: int) -> None:
    """Check a whole number that is at least so large.

    Raises:
        UsageError: it is none.
    """
    if type(value) is not int or value < least:
        raise UsageError(f"{what} is an int, {least} or more, not {value!r}")


def _shown(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
