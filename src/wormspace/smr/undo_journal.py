"""What the command that runs has changed, so that a command that fails has changed nothing.

A command changes state through containers that know the journal (`state`): before each change they
note how it is undone.  When the command is over, values that it has put into the state are checked
and copied into it (`settle`); when it fails, everything is undone, last change first.

The journal also tells the images (`images`), through which whoever takes a snapshot while commands
go on sees each container as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from wormspace.smr.images import Container, Image


class Settling(Protocol):
    """Part of the state, with places for values."""

    def settle(self, place: Any) -> None:
        """Check the value in that place, and make it part of the state.

        Raises:
            TypeError, ValueError, OverflowError: it is not what was declared.
        """


Undo = tuple[Callable[..., Any], tuple[Any, ...]]


class UndoJournal:
    """Of one state machine.

    Attributes:
        undo: how to undo the changes of the command that runs; None if none runs.
        images: those who look at the state as it was at some moment, while it changes.
    """

    __slots__ = ("_closed", "_fresh", "images", "undo")

    def __init__(self) -> None:
        self.undo: list[Undo] | None = None
        self.images: list[Image] = []
        self._fresh: dict[tuple[int, Any], tuple[Settling, Any]] = {}
        self._closed = ""

    def change(
        self, container: Container | None = None, lost: Iterable[Any] = (), is_moved: bool = True
    ) -> list[Undo] | None:
        """A container is about to change; returns where to note how that is undone.

        Args:
            container: whose image is kept; None if it keeps its own, or has none.
            lost: keys of a dictionary whose values go, or are replaced.
            is_moved: whether places come, go or move; else only values are replaced.

        Raises:
            TypeError: a query runs.
        """
        if self._closed:
            raise TypeError(f"{self._closed}() is a query: it cannot change the state")
        if container is not None:
            for image in self.images:
                image.keep(container, lost, is_moved)
        return self.undo

    def put(self, container: Settling, place: Any, key: Any) -> None:
        """A value that may still change was put into a place of a container.

        Args:
            key: tells the place from all others that there are.
        """
        if self.undo is None:
            container.settle(place)
        else:
            self._fresh[key] = (container, place)

    def put_all(self, container: Settling, values: Iterable[Any]) -> None:
        """The same for values whose places move: the place is all of them, by their identity."""
        places = {id(one): one for one in values}
        if self.undo is None:
            container.settle(places)
        else:
            self._fresh.setdefault((id(container), None), (container, {}))[1].update(places)

    def begin(self) -> None:
        """A command begins."""
        self.undo = []

    def commit(self) -> None:
        """It is over: what it has put into the state is checked, and stays.

        Raises:
            TypeError, ValueError, OverflowError: something is not what was declared; roll back.
        """
        if self._fresh:
            for container, place in list(self._fresh.values()):
                container.settle(place)
            self._fresh.clear()
        self.undo = None

    def roll_back(self) -> None:
        """It has failed: the state is what it was when it began."""
        undo, self.undo = self.undo or [], None
        self._fresh.clear()
        for how, arguments in reversed(undo):
            how(*arguments)

    @contextmanager
    def closed(self, query: str) -> Iterator[None]:
        """A query runs: nothing may change meanwhile."""
        self._closed = query
        try:
            yield
        finally:
            self._closed = ""


class _Probe:
    """Equal to a key, and remembers what it was compared with."""

    def __init__(self, key: Any) -> None:
        self._key = self.held = key

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        if self._key != other:
            return False
        self.held = other
        return True


def held_key(container: Any, key: Any) -> Any:
    """The very key that a dictionary or set holds: 1.0 and True find a 1, and -0.0 finds a 0.0."""
    if type(key) is str or type(key) is bytes:
        return key
    probe = _Probe(key)
    return probe.held if probe in container else key
