"""The tasks of one owner: each has a name and is held while it runs, and all end with the owner.

asyncio itself refers to a task weakly, so that one to which nobody else refers may vanish half-way,
and it tells of a failure when the task is collected, which it never is while somebody holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context
from typing import Any, TypeVar

from wormspace.runtime.closing import Closing

T = TypeVar("T")


class Tasks(Closing):
    """What one owner has under way, in the order in which it was begun.

    As a context manager it ends with its block.

    Args:
        name: every task is called so.
        context: the tasks run in it: they may be for others than whoever begins them.
    """

    def __init__(self, name: str, context: Context | None = None) -> None:
        self._name = name
        self._context = context
        self._running: dict[asyncio.Task[Any], Callable[[asyncio.Task[Any]], object] | None] = {}

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something that the caller waits for, or looks at later: it is told of a failure."""
        task = self._start(work)
        self._running[task] = None
        task.add_done_callback(self._running.pop)
        return task

    def spawn(
        self, work: Coroutine[Any, Any, T], then: Callable[[asyncio.Task[T]], object] | None = None
    ) -> asyncio.Task[T]:
        """Do something that nobody waits for.

        Args:
            then: called when it has ended, in whatever way, and is not held here any more; without
                it, the event loop's exception handler is told of a failure.
        """
        task = self._start(work)
        self._running[task] = then or _report
        task.add_done_callback(self._on_done)
        return task

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return asyncio.get_running_loop().create_task(work, name=self._name, context=self._context)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        then = self._running.pop(task)
        if then is not None:
            then(task)

    def cancel(self) -> None:
        """Let all end where they are."""
        for task in list(self._running):
            task.cancel()

    async def wait(self) -> None:
        """Wait until all have ended, and what they began here meanwhile."""
        while self._running:
            await asyncio.wait(list(self._running))

    async def close(self) -> None:
        """Let all end where they are, and what they begin here meanwhile; it is over afterwards."""
        while self._running:
            self.cancel()
            await asyncio.wait(list(self._running))

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(list(self._running))


def _report(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        task.get_loop().call_exception_handler(
            {"message": f"{task.get_name()} failed", "exception": error, "task": task}
        )
