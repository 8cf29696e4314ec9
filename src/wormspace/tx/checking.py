"""What callers pass is checked where they pass it, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wormspace.errors import UsageError
from wormspace.space import Client
from wormspace.tx.names import check_name

SECONDS_MAX = 10**9
KEY_MAX = 127
VALUE_MAX = 8 << 20
"""Half of what one message between two sites may have."""


def check_seconds(what: str, value: float, *, zero: bool = False) -> float:
    """`value`, if it is a number of seconds above 0 (`zero`: or 0), of a lifetime at most.

    Raises:
        UsageError.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (0 < value <= SECONDS_MAX or (zero and value == 0)):
        least = "0 or more" if zero else "above 0"
        raise UsageError(
            f"{what} is a number of seconds, {least} and at most {SECONDS_MAX}, not {value!r}"
        )
    return value


def check_moment(what: str, value: float) -> None:
    """
    Raises:
        UsageError: it is no number.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        raise UsageError(f"{what} is a number of seconds since 1970, not {value!r}")


def check_call(what: str, call: object) -> None:
    """
    Raises:
        UsageError: it is no function.
    """
    if not callable(call):
        raise UsageError(f"{what} is a function, not {_short(call)}")


def check_client(client: object) -> Client:
    """
    Raises:
        UsageError: it is no connection.
    """
    if not isinstance(client, Client):
        raise UsageError(f"a connection is what `connect` gave, not {type(client).__name__}")
    return client


def check_engine(engine: object) -> None:
    """
    Raises:
        UsageError: it is no open store.
    """
    calls = [getattr(engine, name, None) for name in ("begin", "commit", "close")]
    if isinstance(engine, type) or not all(map(callable, calls)) or not hasattr(engine, "view"):
        raise UsageError(
            "an engine is an open store, such as LmdbEngine or MemoryEngine make, not "
            f"{_short(engine)}"
        )


def check_manager(manager: object) -> None:
    """
    Raises:
        UsageError: it is no resource manager.
    """
    if isinstance(manager, type):
        raise UsageError(f"{manager.__name__} is a class: make one, {manager.__name__}(name, ...)")
    methods = ("prepared", "identity")
    if not all(callable(getattr(manager, m, None)) for m in methods) or not hasattr(
        manager, "name"
    ):
        raise UsageError(f"{_short(manager)} is no resource manager")


def check_count(what: str, value: int) -> int:
    """`value`, if it is an integer of 1 or more.

    Raises:
        UsageError.
    """
    if type(value) is not int or value < 1:
        raise UsageError(f"{what} is an integer of 1 or more, not {value!r}")
    return value


def check_names(what: str, names: Iterable[str]) -> tuple[str, ...]:
    """Names of resource managers, each once.

    Raises:
        UsageError: there are none, or they are one text, not several names.
    """
    if isinstance(names, str | bytes | Mapping) or not isinstance(names, Iterable):
        raise UsageError(f"{what} are several names, not {names!r}")
    checked = tuple(check_name(name) for name in names)
    if not checked or len(set(checked)) != len(checked):
        raise UsageError(f"{what} are at least one name, each once, not {checked!r}")
    return checked


def check_key(key: bytes) -> bytes:
    """A key of the built-in store.

    Raises:
        UsageError.
    """
    if type(key) is not bytes or not 0 < len(key) <= KEY_MAX:
        raise UsageError(f"a key is 1 to {KEY_MAX} bytes, not {_short(key)}")
    return key


def check_value(value: bytes) -> bytes:
    """A value of the built-in store.

    Raises:
        UsageError.
    """
    if type(value) is not bytes:
        raise UsageError(f"a value is bytes, not {type(value).__name__}")
    if len(value) > VALUE_MAX:
        raise UsageError(f"a value has at most {VALUE_MAX} bytes, not {len(value)}")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."
