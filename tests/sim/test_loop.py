"""The event loop: virtual time, fixed order, clear failures."""

import asyncio
import time

import pytest

from wormspace.sim import Deadlock, SimLoop, StepLimit, Unhandled


@pytest.fixture
def loop():
    one = SimLoop(max_steps=100_000, max_steps_per_instant=5_000)
    yield one
    one.close()


def test_time_jumps_and_nothing_sleeps(loop):
    before = time.perf_counter()
    loop.run_until_complete(asyncio.sleep(1_000_000))
    assert loop.time() == 1_000_000
    assert time.perf_counter() - before < 1


def test_handles_run_in_order_of_time_then_of_creation(loop):
    order = []

    async def main():
        loop.call_later(2, order.append, "later")
        loop.call_later(1, order.append, "first timer")
        loop.call_later(1, order.append, "second timer")
        loop.call_soon(order.append, "ready")
        loop.call_soon_threadsafe(order.append, "ready too")
        await asyncio.sleep(3)

    loop.run_until_complete(main())
    assert order == ["ready", "ready too", "first timer", "second timer", "later"]


def test_a_cancelled_timer_neither_runs_nor_moves_time(loop):
    async def main():
        for _ in range(2000):
            async with asyncio.timeout(60):
                await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    assert loop.time() == pytest.approx(2.0)
    assert len(loop._timers) < 1000  # cancelled ones do not pile up


def test_the_standard_tools_of_asyncio_work(loop):
    async def worker(queue, out):
        while True:
            out.append(await queue.get())
            queue.task_done()

    async def main():
        queue, out, event = asyncio.Queue(), [], asyncio.Event()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(worker(queue, out))
            for i in range(10):
                queue.put_nowait(i)
            await queue.join()
            running.cancel()
        loop.call_later(5, event.set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await event.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(event.wait(), 1)
        await event.wait()
        assert loop.time() == 5
        assert await asyncio.gather(asyncio.sleep(1, "a"), asyncio.sleep(2, "b")) == ["a", "b"]
        done, pending = await asyncio.wait(
            [asyncio.ensure_future(asyncio.sleep(n)) for n in (3, 1, 2)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert (len(done), len(pending)) == (1, 2)
        return out

    assert loop.run_until_complete(main()) == list(range(10))


def test_sets_of_tasks_and_futures_have_one_order(loop):
    async def main(running):
        tasks = {asyncio.ensure_future(asyncio.sleep(1, n)) for n in range(50)}
        futures = {running.create_future() for _ in range(50)}
        await asyncio.wait(tasks)
        return [task.result() for task in tasks], [hash(future) for future in futures]

    other = SimLoop()
    assert loop.run_until_complete(main(loop)) == other.run_until_complete(main(other))
    other.close()


def test_executor_calls_run_inline_later_and_in_order(loop):
    async def main():
        done = await asyncio.gather(
            loop.run_in_executor(None, int, "7"), asyncio.to_thread(lambda: loop.time())
        )
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 // 0)
        return done

    assert loop.run_until_complete(main()) == [7, loop.executor_delay_s]


def test_a_deadlock_names_who_waits_and_where(loop):
    async def waits_for_ever():
        await loop.create_future()

    async def main():
        task = asyncio.create_task(waits_for_ever(), name="the stuck one")
        await task

    with pytest.raises(Deadlock, match=r"the stuck one: .*waits_for_ever \(test_loop.py:\d+\)"):
        loop.run_until_complete(main())


def test_a_busy_loop_hits_a_step_limit_instead_of_hanging(loop):
    def spin():
        loop.call_soon(spin)

    loop.call_soon(spin)
    with pytest.raises(StepLimit, match="without time moving on"):
        loop.run_forever()


def test_an_endless_run_hits_the_step_limit(loop):
    def tick():
        loop.call_later(1, tick)

    loop.call_soon(tick)
    with pytest.raises(StepLimit, match="100000 steps were not enough"):
        loop.run_forever()


def test_an_exception_in_a_callback_fails_the_run(loop):
    async def main():
        loop.call_later(1, lambda: 1 // 0)
        await asyncio.sleep(10)

    with pytest.raises(Unhandled) as caught:
        loop.run_until_complete(main())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert loop.time() == 1


def test_a_task_whose_failure_nobody_looks_at_fails_the_run(loop):
    async def fails():
        raise ValueError("lost")

    async def main():
        lost = asyncio.ensure_future(fails())
        del lost
        for _ in range(3000):
            await asyncio.create_task(asyncio.sleep(0.001))

    with pytest.raises(Unhandled, match="never retrieved"):
        loop.run_until_complete(main())


def test_a_closed_loop_runs_nothing_more_in_silence(recwarn):
    loop, ran = SimLoop(), []

    async def stubborn():
        try:
            await loop.create_future()
        finally:
            await asyncio.sleep(1)
            ran.append("after the end")

    async def main():
        task = asyncio.ensure_future(stubborn())
        await asyncio.sleep(1)
        assert not task.done()

    loop.run_until_complete(main())
    loop.close()
    assert not ran
    assert not recwarn.list
    with pytest.raises(RuntimeError):
        loop.run_until_complete(loop.create_future())


def test_what_is_not_simulated_says_so(loop):
    with pytest.raises(NotImplementedError):
        loop.add_signal_handler(2, print)
    with pytest.raises(RuntimeError, match="no network"):
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, "s1", 1))
