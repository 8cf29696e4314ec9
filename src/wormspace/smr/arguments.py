"""What users pass to this package, checked at the door.

A replica's name, host and port go into the metadata that all replicas read: what they could not
read would stop every one of them, for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from wormspace.errors import UsageError
from wormspace.runtime.endpoints import as_port
from wormspace.smr.consistency import Causal, Consistency, Eventual, Linearizable, Sequential
from wormspace.smr.declare import StateMachine
from wormspace.space import Client
from wormspace.space.arguments import MAX_TIMEOUT_S

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
    text = as_str(value, what)
    size = len(text.encode())
    if size > MAX_NAME_BYTES:
        raise UsageError(f"{what} has at most {MAX_NAME_BYTES} bytes, not {size}")
    return text


def as_str(value: Any, what: str) -> str:
    """A text of any length that others can read.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(value, str):
        raise UsageError(f"{what} is a str, not {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} is valid Unicode, not {value!a}") from None
    return str(value)


def as_directory(value: Any) -> Path:
    """A directory's path; whether it is there, and can be used, is seen when it is used.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(value, str | Path):
        raise UsageError(f"a directory is a str or a Path, not {_shown(value)}")
    if value == "":
        raise UsageError("a directory has a name: '.' is the one that the process works in")
    if "\0" in str(value):
        raise UsageError(f"no file system has a directory called {str(value)!r}")
    return Path(value)


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


def as_choice(value: Any, what: str, *methods: str) -> Any:
    """An object that is told by its methods.

    Raises:
        UsageError: it lacks one of them, or is a class.
    """
    if isinstance(value, type):
        raise UsageError(f"{what} is an object: {value.__name__}() with parentheses")
    for method in methods:
        if not callable(getattr(value, method, None)):
            raise UsageError(f"{what} has a method {method!r}, and {type(value).__name__} has none")
    return value


def as_replicated(value: Any, what: str, *commands: str) -> Any:
    """A replicated object, told by its commands.

    Raises:
        UsageError: it is something else, a state machine that is not replicated for instance.
    """
    if isinstance(value, StateMachine):
        kind = type(value).__name__
        raise UsageError(f"{what} is what worm.replicate or attach gave, not a bare {kind}")
    return as_choice(value, what, *commands)


def as_client(value: Any) -> Client:
    """A connection.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(value, Client):
        return value
    raise UsageError(f"a connection is what connect() gives, not {_shown(value)}")


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


def as_lease(value: Any) -> float:
    """The length of a lease that a block keeps, in seconds.

    Raises:
        UsageError: it is no positive number, or has no end.
    """
    if type(value) in (int, float) and 0 < value <= MAX_TIMEOUT_S:
        return float(value)
    raise UsageError(
        f"a lease is a positive number of seconds, up to {MAX_TIMEOUT_S:g}, not {value!r}"
    )


def as_number(value: Any, what: str, least: float) -> None:
    """Check a finite number that is at least so large.

    Raises:
        UsageError: it is none.
    """
    if type(value) not in (int, float) or not least <= value < math.inf:
        raise UsageError(f"{what} is a number, {least:g} or more, not {value!r}")


def as_count(value: Any, what: str, least: int, most: int | None = None) -> None:
    """Check a whole number that is at least so large, and at most, if there is a bound.

    Raises:
        UsageError: it is none.
    """
    if type(value) is not int or value < least:
        raise UsageError(f"{what} is an int, {least} or more, not {value!r}")
    if most is not None and value > most:
        raise UsageError(f"{what} is at most {most}, not {value}")


def _shown(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
