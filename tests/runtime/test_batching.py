"""What is added in one turn of the event loop is handed on when it is over, and not before."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

import wormspace
from wormspace.errors import UsageError
from wormspace.runtime.batching import Batcher, EndOfTurn, require_loop
from wormspace.smr import Counter

WHERE = contextvars.ContextVar("WHERE", default="nowhere")


async def turn() -> None:
    await asyncio.sleep(0)


def test_a_function_is_called_once_for_each_turn_that_asks() -> None:
    async def work() -> None:
        calls: list[str] = []
        end = EndOfTurn(lambda: calls.append(WHERE.get()))
        for expected in (1, 2):
            for _ in range(3):
                end.request()
            assert len(calls) == expected - 1
            await turn()
            assert len(calls) == expected
        await turn()
        assert len(calls) == 2

    asyncio.run(work())


def test_what_it_asks_for_itself_is_for_the_next_turn() -> None:
    async def work() -> None:
        calls: list[int] = []

        def call() -> None:
            calls.append(1)
            if len(calls) < 3:
                end.request()

        end = EndOfTurn(call)
        end.request()
        for expected in (1, 2, 3, 3):
            await turn()
            assert len(calls) == expected

    asyncio.run(work())


def test_it_runs_in_the_context_that_it_was_given_or_in_that_of_who_asks_first() -> None:
    async def work() -> None:
        WHERE.set("made")
        seen: list[str] = []
        given = EndOfTurn(lambda: seen.append(WHERE.get()), contextvars.copy_context())
        bare = EndOfTurn(lambda: seen.append(WHERE.get()))
        WHERE.set("first")
        given.request()
        bare.request()
        WHERE.set("second")
        given.request()
        bare.request()
        await turn()
        assert seen == ["made", "first"]

    asyncio.run(work())


def test_a_turns_items_are_handed_on_by_key_and_in_order() -> None:
    async def work() -> None:
        sent: list[tuple[str, list[int]]] = []
        batcher: Batcher[str, int] = Batcher(lambda key, items: sent.append((key, items)))
        for key, item in (("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)):
            batcher.add(key, item)
        assert sent == []
        await turn()
        assert sent == [("a", [1, 3]), ("b", [2, 5]), ("c", [4])]
        batcher.add("a", 6)
        await turn()
        await turn()
        assert sent[3:] == [("a", [6])]

    asyncio.run(work())


def test_what_is_added_while_others_are_handed_on_is_for_the_next_turn() -> None:
    async def work() -> None:
        sent: list[tuple[str, list[int]]] = []

        def send(key: str, items: list[int]) -> None:
            sent.append((key, items))
            if items[-1] < 3:
                batcher.add("a", items[-1] + 1)

        batcher: Batcher[str, int] = Batcher(send)
        batcher.add("a", 1)
        for expected in (1, 2, 3, 3):
            await turn()
            assert len(sent) == expected

    asyncio.run(work())


def test_what_goes_wrong_with_one_key_costs_the_others_nothing() -> None:
    async def work() -> None:
        sent: list[str] = []
        told: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))

        def send(key: str, items: list[int]) -> None:
            if key == "b":
                raise KeyError(key)
            sent.append(key)

        batcher: Batcher[str, int] = Batcher(send)
        for _ in range(2):
            for key in ("a", "b", "c"):
                batcher.add(key, 1)
            await turn()
        assert sent == ["a", "c", "a", "c"]
        assert [repr(what["exception"]) for what in told] == ["KeyError('b')"] * 2

    asyncio.run(work())


def test_what_is_withdrawn_is_not_sent() -> None:
    async def work() -> None:
        sent: list[tuple[str, list[int]]] = []
        batcher: Batcher[str, int] = Batcher(lambda key, items: sent.append((key, items)))
        for key, item in (("a", 1), ("b", 2), ("a", 3)):
            batcher.add(key, item)
        assert batcher.withdraw() == [1, 3, 2]
        assert batcher.withdraw() == []
        await turn()
        assert sent == []
        batcher.add("b", 4)
        await turn()
        assert sent == [("b", [4])]

    asyncio.run(work())


async def test_a_call_from_elsewhere_is_refused_and_holds_up_nobody_after_it() -> None:
    sent: list[tuple[str, list[int]]] = []
    batcher: Batcher[str, int] = Batcher(lambda key, items: sent.append((key, items)))
    with pytest.raises(UsageError, match="event loop on which it was opened"):
        await asyncio.to_thread(batcher.add, "a", 1)
    batcher.add("a", 2)
    await asyncio.sleep(0)
    assert sent == [("a", [2])]
    require_loop(asyncio.get_running_loop())
    for loop in (asyncio.get_running_loop(), asyncio.new_event_loop()):
        with pytest.raises(UsageError, match=r"threads use wormspace\.sync"):
            await asyncio.to_thread(require_loop, loop)
        if not loop.is_running():
            loop.close()


async def test_a_log_and_an_object_go_on_after_a_call_from_another_thread() -> None:
    """Nothing of it waits for the end of a turn that never comes, and those behind it with it."""
    async with wormspace.connect("memory:") as worm:
        log, hits = await worm.log("log"), await worm.replicate(Counter, "hits")
        for call in (hits.add, hits.read, lambda: log.append(b"lost").send(None)):
            with pytest.raises(UsageError, match="event loop on which it was opened"):
                await asyncio.to_thread(call)
        async with asyncio.timeout(30):
            assert await log.append(b"kept") == 0
            assert (await hits.add(), await hits.read()) == (1, 1)
