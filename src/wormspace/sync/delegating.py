"""How the twin of an asynchronous class is written: a line for each method, with the same types.

    class Cursor(Handle):
        load = waiting(cursors.Cursor.load)

Each takes what the asynchronous method takes, says what it says, and is done when it returns.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from wormspace import space
from wormspace.sync.background import Background, Stream

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound="Handle")


class Handle:
    """An asynchronous object that lives on a connection's loop, for plain calls."""

    def __init__(self, background: Background[Any], twin: Any, parent: Any = None) -> None:
        self._background = background
        self._twin = twin
        self._parent = parent

    def __repr__(self) -> str:
        return repr(self._twin)


class Closing(Handle):
    """What is open until `close`, or until the end of its `with` block."""

    def close(self) -> None:
        """Let go of all that it holds; harmless when repeated."""
        if self._background.client is self._twin:
            self._background.close()  # it came first, and the thread is its own
        else:
            self._background.call(self._twin.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Attribute(Generic[R]):
    """An attribute of the asynchronous object, to be read."""

    def __init__(self, about: str) -> None:
        self.__doc__ = about

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, handle: None, owner: type) -> Self: ...
    @overload
    def __get__(self, handle: Handle, owner: type) -> R: ...
    def __get__(self, handle: Handle | None, owner: type) -> Self | R:
        if handle is None:
            return self
        value: R = getattr(handle._twin, self._name)
        return value

    def __set__(self, handle: Handle, value: object) -> None:
        raise AttributeError(f"{self._name} cannot be set")


def waiting(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Any, P], R]:
    """The twin of a method whose result is awaited."""
    return _like(method, lambda handle, *args, **kwargs: _call(handle, method, args, kwargs))


def running(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """The twin of a plain method; it runs on the loop, too."""
    return _like(method, lambda handle, *args, **kwargs: _do(handle, method, args, kwargs))


def streaming(
    method: Callable[Concatenate[Any, P], space.Stream[R]],
) -> Callable[Concatenate[Any, P], Stream[R]]:
    """The twin of a method that makes a stream."""

    def listen(handle: Handle, *args: Any, **kwargs: Any) -> Stream[R]:
        bound = functools.partial(method, handle._twin, *args, **kwargs)
        return Stream(handle._background, bound)

    return _like(method, listen)


def making(
    method: Callable[Concatenate[Any, P], Any], kind: type[H]
) -> Callable[Concatenate[Any, P], H]:
    """The twin of a method that makes an object, which has a twin of its own."""
    run = _call if inspect.iscoroutinefunction(method) else _do

    def make(handle: Handle, *args: Any, **kwargs: Any) -> H:
        return kind(handle._background, run(handle, method, args, kwargs), handle)

    return _like(method, make)


def plain(doc: str) -> str:
    """A docstring without the words of asyncio."""
    doc = re.sub(r"\b(await |async (?=for|with))", "", doc)
    return doc.replace(", to be awaited", "").replace("be awaited", "be called")


def _call(handle: Handle, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return handle._background.call(lambda: method(handle._twin, *args, **kwargs))


def _do(handle: Handle, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return handle._background.do(lambda: method(handle._twin, *args, **kwargs))


def _like(method: Callable[..., Any], twin: Callable[..., Any]) -> Callable[..., Any]:
    """With the name, the parameters and the words of the asynchronous method."""
    functools.update_wrapper(twin, method)
    twin.__doc__ = plain(method.__doc__ or "")
    return twin
