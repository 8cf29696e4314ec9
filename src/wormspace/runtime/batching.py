"""What happens in one turn of the event loop, and is done together when the turn is over.

A turn is all that is ready at one moment: messages that came in, callers that go on.  What these
want to send leaves as one message, so that the load itself decides how much goes together, and a
lone request waits for nobody.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Generic, TypeVar

from wormspace.errors import UsageError

Key = TypeVar("Key")
Item = TypeVar("Item")


ELSEWHERE = (
    "a client is used on the event loop on which it was opened; threads use wormspace.sync, or "
    "asyncio.run_coroutine_threadsafe"
)


def require_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Make sure that the caller runs on this event loop.

    Raises:
        UsageError: it runs on another one, or on none.
    """
    if asyncio._get_running_loop() is not loop:
        raise UsageError(ELSEWHERE)


class EndOfTurn:
    """Calls a function when the turn is over, once, however often it is asked to.

    Args:
        call: the function.
        context: what it runs in; else in the context of whoever asks first.
    """

    __slots__ = ("_call", "_context", "_is_due")

    def __init__(
        self, call: Callable[[], object], context: contextvars.Context | None = None
    ) -> None:
        self._call = call
        self._context = context
        self._is_due = False

    def request(self) -> None:
        """Make the call when this turn is over."""
        if not self._is_due:
            loop = asyncio._get_running_loop()
            if loop is None:
                raise UsageError(ELSEWHERE)
            loop.call_soon(self._on_turn, context=self._context)
            self._is_due = True

    def _on_turn(self) -> None:
        self._is_due = False
        self._call()


class Batcher(Generic[Key, Item]):
    """Collects the items of a turn, and hands on those of each key when it is over.

    Args:
        send: is given a key and its items, in the order in which they were added.  What it raises
            is told to the event loop's exception handler, and costs other keys nothing.
    """

    __slots__ = ("_by_key", "_end_of_turn", "_send")

    def __init__(self, send: Callable[[Key, list[Item]], object]) -> None:
        self._send = send
        self._by_key: dict[Key, list[Item]] = {}
        self._end_of_turn = EndOfTurn(self._flush)

    def add(self, key: Key, item: Item) -> None:
        """One more item of this turn."""
        items = self._by_key.get(key)
        if items is None:
            self._end_of_turn.request()
            items = self._by_key[key] = []
        items.append(item)

    def withdraw(self) -> list[Item]:
        """Take back what waits for the end of this turn; it is not sent."""
        by_key, self._by_key = self._by_key, {}
        return [item for items in by_key.values() for item in items]

    def _flush(self) -> None:
        by_key, self._by_key = self._by_key, {}
        for key, items in by_key.items():
            try:
                self._send(key, items)
            except Exception as e:  # noqa: BLE001 - others wait behind it
                told = {"message": f"what was to be sent to {key!r} is lost", "exception": e}
                asyncio.get_running_loop().call_exception_handler(told)
