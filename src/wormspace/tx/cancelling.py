"""What must be done whole, though whoever waits for it is cancelled meanwhile.

asyncio tells of a cancellation once, wherever the task waits.  While a commit is under way nobody
can say yet what is true, so it is carried to its end, which its deadline bounds, and the block says
what came of it.  The cancellation strikes where the task waits next, unless whoever wanted it has
taken it back by then, as `asyncio.timeout` does when its block ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from wormspace.runtime.tasks import Tasks

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Do `work`, which ends in a bounded time, whole; a cancellation strikes after it."""
    task = Tasks("what is done whole").begin(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        cancel_later()
    return task.result()


def cancel_later() -> None:
    """Let the cancellation that the running task has met strike again where it waits next."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().call_soon(_strike, task)


def _strike(task: asyncio.Task[Any]) -> None:
    if not task.done() and task.cancelling():
        task.uncancel()
        task.cancel()
