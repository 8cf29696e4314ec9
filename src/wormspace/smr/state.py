"""The containers that plain attributes are made of: they look at what is put into them.

They are dictionaries, lists and sets to whoever uses them.  A change is noted in the journal first,
so that it can be undone; keys and immutable values are checked at once, and what may still change
(a list that a command goes on filling) when the command is over.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, MutableSequence, MutableSet
from typing import Any

from wormspace.runtime.collector import untrack
from wormspace.smr.images import DictImage, ItemsImage
from wormspace.smr.kinds import Kind
from wormspace.smr.undo_journal import UndoJournal, held_key

_ABSENT: Any = object()


def adopt(value: Any, kind: Kind, journal: UndoJournal) -> Any:
    """A copy of a value, as it is in the state.

    Raises:
        TypeError, ValueError, OverflowError: it is not what was declared.
    """
    return tracked(kind.normal(value), kind, journal)


def tracked(value: Any, kind: Kind, journal: UndoJournal) -> Any:
    """The same for a value that was just decoded as what was declared."""
    kind = kind.of(value)
    if kind.container is None:
        return value
    made = _CLASSES[kind.container](kind, journal)
    made.fill(value)
    return made


def _item(kind: Kind) -> Kind:
    assert kind.item is not None
    return kind.item


def _spare(container: StateDict | StateList | StateSet) -> None:
    """What holds immutable values only is nothing for the collector of cycles."""
    if container._item.is_value:
        untrack(container)


class StateDict(dict[Any, Any]):
    """A dictionary that is part of the state."""

    __slots__ = ("_item", "_journal", "_key")

    def __init__(self, kind: Kind, journal: UndoJournal) -> None:
        super().__init__()
        assert kind.key is not None
        self._key, self._item, self._journal = kind.key, _item(kind), journal
        _spare(self)

    def fill(self, decoded: Any) -> None:
        """Add what was just decoded: pairs, or a dictionary."""
        if self._item.is_value:
            super().update(decoded)
            return
        pairs = decoded.items() if isinstance(decoded, dict) else decoded
        for key, value in pairs:
            super().__setitem__(key, tracked(value, self._item, self._journal))

    def image(self) -> DictImage:
        return DictImage(self)

    def settle(self, place: Any) -> None:
        value = self.get(place, _ABSENT)
        if value is not _ABSENT:
            super().__setitem__(place, adopt(value, self._item, self._journal))

    def __setitem__(self, key: Any, value: Any) -> None:
        key = self._key.check(key)
        item = self._item
        if item.is_value:
            value = item.check(value)
        old = self.get(key, _ABSENT)
        if old is _ABSENT:
            undo = self._journal.change(self)
            if undo is not None:
                undo.append((super().__delitem__, (key,)))
        elif old is value and not item.is_value:
            return
        else:
            undo = self._journal.change(self, (key,), False)
            if undo is not None:
                undo.append((super().__setitem__, (key, old)))
        super().__setitem__(key, value)
        if not item.is_value:
            self._journal.put(self, key, (id(self), key))

    def __delitem__(self, key: Any) -> None:
        old = self[key]
        undo = self._journal.change(self, (key,))
        if undo is not None:
            undo.append((super().__setitem__, (held_key(self, key), old)))
        super().__delitem__(key)

    def pop(self, key: Any, default: Any = _ABSENT) -> Any:
        value = self.get(key, _ABSENT)
        if value is _ABSENT:
            if default is _ABSENT:
                raise KeyError(key)
            return default
        del self[key]
        return value

    def popitem(self) -> tuple[Any, Any]:
        if not self:
            raise KeyError("the dictionary is empty")
        key = next(reversed(self))
        return key, self.pop(key)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        undo = self._journal.change(self, self)
        if undo is not None:
            undo.append((super().update, (dict(self),)))
        super().clear()

    update = MutableMapping.update

    def __ior__(self, other: Any) -> StateDict:  # type: ignore[misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class StateList(list[Any]):
    """A list that is part of the state."""

    __slots__ = ("_item", "_journal")

    def __init__(self, kind: Kind, journal: UndoJournal) -> None:
        super().__init__()
        self._item, self._journal = _item(kind), journal
        _spare(self)

    def fill(self, decoded: Any) -> None:
        """Add what was just decoded."""
        if self._item.is_value:
            super().extend(decoded)
        else:
            super().extend(tracked(one, self._item, self._journal) for one in decoded)

    def image(self) -> ItemsImage:
        return ItemsImage(self, len(self))

    def settle(self, place: dict[int, Any]) -> None:
        """Here the place is the values themselves, for places move."""
        for at, one in enumerate(self):
            if id(one) in place:
                super().__setitem__(at, adopt(one, self._item, self._journal))

    def _checked(self, values: Iterable[Any]) -> list[Any]:
        return [self._item.check(one) for one in values] if self._item.is_value else list(values)

    def _note(self) -> None:
        """Anything may change."""
        undo = self._journal.change(self)
        if undo is not None:
            undo.append((super().__setitem__, (slice(None), list(self))))

    def _splice(self, start: int, stop: int, values: list[Any]) -> None:
        """Put values, already checked, in place of those from `start` to `stop`."""
        undo = self._journal.change(self)
        if undo is not None:
            end = start + len(values)
            undo.append((super().__setitem__, (slice(start, end), self[start:stop])))
        super().__setitem__(slice(start, stop), values)

    def _settle_later(self, values: Iterable[Any]) -> None:
        if not self._item.is_value:
            self._journal.put_all(self, values)

    def append(self, value: Any) -> None:
        (value,) = self._checked((value,))
        undo = self._journal.change(self)
        if undo is not None:
            undo.append((super().pop, ()))
        super().append(value)
        self._settle_later((value,))

    def extend(self, values: Iterable[Any]) -> None:
        values = self._checked(values)
        self._splice(len(self), len(self), values)
        self._settle_later(values)

    def __setitem__(self, at: Any, value: Any) -> None:
        if isinstance(at, slice):
            values = self._checked(value)
            start, stop, step = at.indices(len(self))
            if step == 1:
                self._splice(start, max(start, stop), values)
            else:
                self._note()
                super().__setitem__(at, values)
        else:
            values = self._checked((value,))
            old = self[at]
            undo = self._journal.change(self)
            if undo is not None:
                undo.append((super().__setitem__, (at, old)))
            super().__setitem__(at, values[0])
        self._settle_later(values)

    def insert(self, at: Any, value: Any) -> None:
        (value,) = self._checked((value,))
        start, _, _ = slice(at, None).indices(len(self))
        self._splice(start, start, [value])
        self._settle_later((value,))

    def pop(self, at: Any = -1) -> Any:
        value = self[at]
        del self[at]
        return value

    def __delitem__(self, at: Any) -> None:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step != 1:
                self._note()
                super().__delitem__(at)
                return
            self._splice(start, max(start, stop), [])
        else:
            start = range(len(self))[at]
            self._splice(start, start + 1, [])

    def remove(self, value: Any) -> None:
        del self[self.index(value)]

    def clear(self) -> None:
        self._splice(0, len(self), [])

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        self._note()
        super().sort(key=key, reverse=reverse)

    def reverse(self) -> None:
        self._note()
        super().reverse()

    __iadd__ = MutableSequence.__iadd__

    def __imul__(self, times: Any) -> StateList:  # type: ignore[misc]
        self[:] = list(self) * times
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


class StateSet(set[Any]):
    """A set that is part of the state."""

    __slots__ = ("_item", "_journal")

    def __init__(self, kind: Kind, journal: UndoJournal) -> None:
        super().__init__()
        self._item, self._journal = _item(kind), journal
        _spare(self)

    def fill(self, decoded: Any) -> None:
        """Add what was just decoded."""
        super().update(decoded)

    def image(self) -> ItemsImage:
        return ItemsImage(self, len(self))

    def settle(self, place: Any) -> None:
        """Members are immutable: nothing is left to do."""

    def add(self, value: Any) -> None:
        value = self._item.check(value)
        if value not in self:
            undo = self._journal.change(self)
            if undo is not None:
                undo.append((super().discard, (value,)))
            super().add(value)

    def discard(self, value: Any) -> None:
        if value in self:
            undo = self._journal.change(self)
            if undo is not None:
                undo.append((super().add, (held_key(self, value),)))
            super().discard(value)

    def remove(self, value: Any) -> None:
        if value not in self:
            raise KeyError(value)
        self.discard(value)

    def pop(self) -> Any:
        raise TypeError(
            "a set has no order, so `pop` is not the same on all replicas: choose the member, for "
            "instance min(...), and discard it"
        )

    def clear(self) -> None:
        for value in list(self):
            self.discard(value)

    def update(self, *others: Iterable[Any]) -> None:
        for other in others:
            for value in list(other):
                self.add(value)

    def difference_update(self, *others: Iterable[Any]) -> None:
        for other in others:
            for value in list(other):
                self.discard(value)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        self.difference_update(self.difference(self.intersection(*others)))

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        other = set(other)
        both = self & other
        self.update(other)
        self.difference_update(both)

    __ior__ = MutableSet.__ior__
    __iand__ = MutableSet.__iand__
    __isub__ = MutableSet.__isub__
    __ixor__ = MutableSet.__ixor__

    def copy(self) -> set[Any]:
        return set(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return set, (set(self),)


_CLASSES: dict[type, Any] = {dict: StateDict, list: StateList, set: StateSet}
