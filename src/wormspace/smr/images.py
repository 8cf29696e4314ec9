"""Containers as they were at one moment, read some items at a time while they change.

Nothing is copied at that moment, and as little as can be afterwards: of a dictionary, a value when
it is replaced, and the keys that were not read yet when the first one comes or goes; of a list or
set the items that were not read yet, at its first change.  To copy a million keys takes 15 ms; with
their values it takes three times as long, for each of them is somewhere else in memory, and as long
again to forget them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Protocol


class Container(Protocol):
    """A dictionary, list or set of the state."""

    def image(self) -> ItemsImage:
        """It as it is now; whoever asks says before each change that there is one."""


class Image:
    """The containers of one state as they were when this was made.  `close` it in the end."""

    def __init__(self, images: list[Image]) -> None:
        """In `images`, whose members are told of changes, until it is closed."""
        self._images = images
        self._kept: dict[int, tuple[Container, ItemsImage]] = {}
        images.append(self)

    def keep(self, container: Container, lost: Iterable[Any] = (), is_moved: bool = True) -> None:
        """It is about to change: see `UndoJournal.change`."""
        self.of(container).keep(lost, is_moved)

    def of(self, container: Container) -> ItemsImage:
        """The container as it was; each item can be taken once."""
        kept = self._kept.get(id(container))
        if kept is None:
            kept = self._kept[id(container)] = (container, container.image())
        return kept[1]

    def all_of(self, container: Any) -> Any:
        """All that was in it, at once: pairs, if it is a dictionary."""
        kept = self._kept.get(id(container))
        if kept is None:
            return container.items() if isinstance(container, dict) else container
        return kept[1].take(None)

    def close(self) -> None:
        """It is not wanted any more."""
        if self in self._images:
            self._images.remove(self)


class ItemsImage:
    """A list or set as it was; what a dictionary's has more is in `DictImage`."""

    def __init__(self, container: Iterable[Any], length: int) -> None:
        self._rest = iter(container)
        self._length = length
        self._is_apart = False

    def __len__(self) -> int:
        return self._length

    def keep(self, lost: Iterable[Any], is_moved: bool) -> None:
        """It is about to change."""
        if is_moved and not self._is_apart:
            self._rest = iter(list(self._rest))
            self._is_apart = True

    def take(self, limit: int | None) -> list[Any]:
        """The next items, in order; empty when there are no more."""
        return list(islice(self._rest, limit))


class DictImage(ItemsImage):
    """A dictionary as it was."""

    def __init__(self, live: dict[Any, Any]) -> None:
        super().__init__(live, len(live))
        self._live = live
        self._lost: dict[Any, Any] = {}

    def keep(self, lost: Iterable[Any], is_moved: bool) -> None:
        super().keep(lost, is_moved)
        for key in lost:
            self._lost.setdefault(key, self._live[key])

    def take(self, limit: int | None) -> list[tuple[Any, Any]]:
        """The next pairs, in order."""
        live, lost = self._live, self._lost
        keys = super().take(limit)
        return [(key, lost[key] if key in lost else live[key]) for key in keys]
