"""The tasks of one owner: none is lost, no failure is, and all end with the owner."""

import ast
import asyncio
import contextvars
import gc
import weakref
from pathlib import Path

import pytest

import wormspace
from wormspace.runtime.tasks import Tasks

SOURCE = Path(wormspace.__file__).parent


async def fail(error):
    raise error


def running(work):
    """Run it; returns what the loop's exception handler was told."""
    told = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, told_of: told.append(told_of))
        await work()

    asyncio.run(main())
    return told


def test_a_task_is_held_while_it_runs_and_not_longer():
    async def work():
        tasks, go_on = Tasks("the work"), asyncio.Event()
        seen = weakref.ref(tasks.spawn(go_on.wait()))
        await asyncio.sleep(0)
        gc.collect()
        assert [task.get_name() for task in tasks] == ["the work"]
        assert len(tasks) == 1
        go_on.set()
        await tasks.wait()
        assert not tasks
        gc.collect()
        assert seen() is None

    assert running(work) == []


def test_a_failure_that_nobody_waits_for_is_told_at_once():
    async def work():
        tasks = Tasks("the work")
        held = tasks.spawn(fail(ZeroDivisionError("oh")))
        tasks.spawn(fail(asyncio.CancelledError()))
        await tasks.wait()
        assert held.done()

    [told] = running(work)
    assert told["message"] == "the work failed"
    assert str(told["exception"]) == "oh"


def test_who_waits_is_told_and_whoever_looks_at_the_end_is_told_of_each():
    ends = []

    async def work():
        tasks = Tasks("the work")
        begun = tasks.begin(fail(ZeroDivisionError("oh")))
        with pytest.raises(ZeroDivisionError):
            await begun

        def then(task):
            ends.append((task.cancelled() or task.exception() or task.result(), len(tasks)))

        tasks.spawn(asyncio.sleep(0, "well"), then)
        await tasks.wait()
        tasks.spawn(asyncio.sleep(9), then)
        await tasks.close()
        tasks.spawn(fail(KeyError("k")), then)
        await tasks.wait()

    assert running(work) == []
    assert [repr(end) for end, _ in ends] == ["'well'", "True", "KeyError('k')"]
    assert {left for _, left in ends} == {0}


def test_all_end_with_the_owner_and_with_them_what_they_began_meanwhile():
    ended = []

    async def work():
        async def lasts(name, tasks):
            try:
                await asyncio.sleep(99)
            finally:
                if name < 3:
                    tasks.spawn(lasts(name + 1, tasks))
                await asyncio.sleep(0.001)
                ended.append(name)

        async with Tasks("the work") as tasks:
            tasks.spawn(lasts(0, tasks))
            tasks.spawn(lasts(3, tasks))
            await asyncio.sleep(0.001)
        assert not tasks
        await tasks.close()

    assert running(work) == []
    assert sorted(ended) == [0, 1, 2, 3, 3]


def test_they_are_cancelled_in_the_order_in_which_they_were_begun():
    async def work():
        ended = []

        async def lasts(number):
            try:
                await asyncio.sleep(99)
            finally:
                ended.append(number)

        tasks = Tasks("many")
        for number in range(100):
            tasks.spawn(lasts(number))
        await asyncio.sleep(0)
        await tasks.close()
        assert ended == list(range(100))

    assert running(work) == []


def test_a_task_for_many_runs_in_nobodys_own_context():
    mine = contextvars.ContextVar("mine", default="nobody's")

    async def work():
        tasks, others = Tasks("for many", contextvars.copy_context()), Tasks("for one")
        mine.set("mine")

        async def look():
            return mine.get()

        assert await tasks.begin(look()) == "nobody's"
        assert await others.begin(look()) == "mine"

    assert running(work) == []


ELSEWHERE = {
    "sim/_loop.py": "it is an event loop",
    "sim/world.py": "begins a program of a world from outside of its loop, which holds all tasks",
    "sim/workload.py": "the loop of a world holds all tasks, and ends them with the world",
    "rpc/service.py": "its tasks are counted against limits, with the bytes of each",
}
"""Files that make tasks by themselves, and why they may."""


def test_tasks_are_begun_in_one_place():
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", getattr(node, "id", ""))
            if name in ("create_task", "ensure_future", "TaskGroup"):
                found.add(str(path.relative_to(SOURCE)))
    assert found - {"runtime/tasks.py"} == set(ELSEWHERE)
