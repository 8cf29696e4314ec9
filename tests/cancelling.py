"""Cancels a call at each moment at which it can be cancelled, and looks at what is left of it.

    def test_append_can_be_cancelled_anywhere():
        cancel_everywhere(setting, act, check)

`setting()` is an asynchronous context manager that makes what the call needs, `act(it)` is the
call, and `check(it)` says what must hold afterwards, whether the call was cancelled or not: that
the same call works now, and what the cancelled one may have done.  All of it runs on a simulated
loop, so a moment is a number: the 1st, 2nd, ... time that the call waits.  At each it is cancelled
twice, in runs of their own: as soon as it waits, and at the last instant, when what it waits for is
there.

After each run, no task may be left that was not there before.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from typing import Any

from wormspace.sim import World

MOST = 2000
"""A call that waits more often than this does not end."""

HOST = "here"
"""Where all of it runs, so that it may use the network, with itself."""

SETTLE_S = 20.0
"""Virtual seconds for what was begun to come to its end: longer than any deadline in use."""


class _Cut:
    """An awaitable that runs `work` and cancels the task in its `at`-th wait."""

    def __init__(self, work: Awaitable[Any], at: int, late: bool) -> None:
        self._work = work
        self._left = at
        self._late = late
        self.fired = False

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        send: Callable[[], Any] = lambda: next(steps)  # noqa: E731
        while True:
            try:
                waited_for = send()
            except StopIteration as end:
                return end.value
            self._left -= 1
            if self._left == 0:
                self._cancel(waited_for)
            try:
                yield waited_for
            except BaseException as error:  # noqa: BLE001 - it is the work's to handle
                send = lambda error=error: steps.throw(error)  # noqa: E731
            else:
                send = lambda: next(steps)  # noqa: E731

    def _cancel(self, waited_for: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.fired = True
        if self._late and waited_for is not None:
            waited_for.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()


def cancel_everywhere(
    setting: Callable[[], AbstractAsyncContextManager[Any]],
    act: Callable[[Any], Awaitable[Any]],
    check: Callable[[Any], Awaitable[None]],
    *,
    settle_s: float = SETTLE_S,
) -> int:
    """Run it until it completes uncancelled; returns how many moments there were."""
    moments = 0
    for late in (False, True):
        for at in itertools.count(1):
            assert at < MOST, "the call does not end"
            if not _run(setting, act, check, at, late, settle_s):
                break
            moments += 1
    return moments


def _run(setting: Any, act: Any, check: Any, at: int, late: bool, settle_s: float) -> bool:
    """One run; whether the call was cancelled."""
    where = f"cancelled {'at the end of' if late else 'in'} its wait no. {at}"

    async def drive() -> bool:
        async with setting() as it:
            before = asyncio.all_tasks()
            cut = _Cut(act(it), at, late)

            async def call() -> Any:
                return await cut

            task = asyncio.ensure_future(call())
            await asyncio.wait([task])
            if cut.fired:
                assert task.cancelled(), f"{where}, it said {task}"
            else:
                task.result()
            await asyncio.sleep(settle_s)
            left = asyncio.all_tasks() - before - {task}
            assert not left, f"{where}, it left {left}"
            try:
                await check(it)
            except Exception as error:
                error.add_note(f"the call was {where}" if cut.fired else "it was not cancelled")
                raise
            return cut.fired

    with World(1) as world:
        return world.run(world.spawn(HOST, drive, may_fail=True).wait())
