"""Sequential objects to check histories against.

Inputs are tuples: the name of the operation, then its arguments (a key first, where there are
keys). Outputs are what the operation returned. Each model says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wormspace.sim.linearizability import UNKNOWN, Operation

__all__ = [
    "AppendOnlyLog",
    "CasRegister",
    "Counter",
    "FifoQueue",
    "KeyValueStore",
    "WriteOnceRegisters",
]

OK = "ok"
EMPTY = None
"""What a read of a register never written, or a dequeue from an empty queue, returns."""


class _Whole:
    """An object whose operations all influence each other."""

    def partition(self, history: Sequence[Operation]) -> list[Sequence[Operation]]:
        """One part."""
        return [history]


class _Keyed:
    """Independent objects: the first argument of each operation says which."""

    def partition(self, history: Sequence[Operation]) -> list[list[Operation]]:
        """One part per key."""
        parts: dict[Any, list[Operation]] = {}
        for operation in history:
            parts.setdefault(operation.input[1], []).append(operation)
        return list(parts.values())


class WriteOnceRegisters(_Keyed):
    """("write", address, value) -> "ok", or the value that is there instead, as ("lost", other);
    ("read", address) -> the value, or None while empty.

    Writing the value that is already there is "ok": a replay.
    """

    def initial(self) -> Any:
        """Empty."""
        return EMPTY

    def step(self, state: Any, asked: Any, output: Any) -> tuple[bool, Any]:
        """See Model."""
        if asked[0] == "read":
            return output is UNKNOWN or output == state, state
        if asked[0] != "write":
            raise ValueError(f"a write-once register has no {asked[0]!r}")
        after = asked[2] if state is EMPTY else state
        expected = OK if after == asked[2] else ("lost", after)
        return output is UNKNOWN or output == expected, after


class CasRegister(_Whole):
    """("read",) -> value; ("write", value) -> "ok"; ("cas", old, new) -> whether it was `old`.

    Starts as `start`.
    """

    def __init__(self, start: Any = None) -> None:
        self._start = start

    def initial(self) -> Any:
        """The value at the start."""
        return self._start

    def step(self, state: Any, asked: Any, output: Any) -> tuple[bool, Any]:
        """See Model."""
        match asked:
            case ("read",):
                return output is UNKNOWN or output == state, state
            case ("write", value):
                return output is UNKNOWN or output == OK, value
            case ("cas", old, new):
                swapped = state == old
                return output is UNKNOWN or output == swapped, new if swapped else state
        raise ValueError(f"a register has no {asked!r}")


class KeyValueStore(_Keyed):
    """("get", key) -> value or None; ("put", key, value) -> "ok"; ("delete", key) -> "ok";
    ("append", key, text) -> "ok"; ("cas", key, old, new) -> whether it was `old`.
    """

    def initial(self) -> Any:
        """No value."""
        return EMPTY

    def step(self, state: Any, asked: Any, output: Any) -> tuple[bool, Any]:
        """See Model."""
        match asked:
            case ("get", _):
                return output is UNKNOWN or output == state, state
            case ("put", _, value):
                return output is UNKNOWN or output == OK, value
            case ("delete", _):
                return output is UNKNOWN or output == OK, EMPTY
            case ("append", _, text):
                return output is UNKNOWN or output == OK, text if state is EMPTY else state + text
            case ("cas", _, old, new):
                swapped = state == old
                return output is UNKNOWN or output == swapped, new if swapped else state
        raise ValueError(f"a key-value store has no {asked!r}")


class FifoQueue(_Whole):
    """("enqueue", item) -> "ok"; ("dequeue",) -> the oldest item, or None if there is none."""

    def initial(self) -> tuple[Any, ...]:
        """No items."""
        return ()

    def step(self, state: tuple[Any, ...], asked: Any, output: Any) -> tuple[bool, tuple[Any, ...]]:
        """See Model."""
        match asked:
            case ("enqueue", item):
                return output is UNKNOWN or output == OK, (*state, item)
            case ("dequeue",):
                oldest = state[0] if state else EMPTY
                return output is UNKNOWN or output == oldest, state[1:]
        raise ValueError(f"a queue has no {asked!r}")


class Counter(_Whole):
    """("add", amount) -> the sum after it; ("read",) -> the sum. Starts at 0."""

    def initial(self) -> int:
        """Zero."""
        return 0

    def step(self, state: int, asked: Any, output: Any) -> tuple[bool, int]:
        """See Model."""
        match asked:
            case ("add", amount):
                return output is UNKNOWN or output == state + amount, state + amount
            case ("read",):
                return output is UNKNOWN or output == state, state
        raise ValueError(f"a counter has no {asked!r}")


class AppendOnlyLog(_Whole):
    """("append", entry) -> its position; ("read", position) -> the entry, or None beyond the end;
    ("tail",) -> the number of entries.
    """

    def initial(self) -> tuple[Any, ...]:
        """No entries."""
        return ()

    def step(self, state: tuple[Any, ...], asked: Any, output: Any) -> tuple[bool, tuple[Any, ...]]:
        """See Model."""
        match asked:
            case ("append", entry):
                return output is UNKNOWN or output == len(state), (*state, entry)
            case ("read", position):
                found = state[position] if position < len(state) else EMPTY
                return output is UNKNOWN or output == found, state
            case ("tail",):
                return output is UNKNOWN or output == len(state), state
        raise ValueError(f"a log has no {asked!r}")
