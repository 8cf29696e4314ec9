"""Every public awaitable of a space ends by its deadline, and says what it knows.

Time is virtual.  The servers fall silent, all of them or two of three, with their links up or down.
"""

import asyncio

import pytest
from test_cancelling import CALLS, scene

from wires import simulated
from wormspace.errors import CaptureLost, PartialWrite, Unavailable

TIMEOUT_S = 5.0
"""The default of the clients in use."""

NEVER_FAIL = {"servers", "inspect"}
"""They say of each server whether it answered."""


def silence(it, servers, is_cut):
    for server in servers:
        wire = it.worm.wires[server]
        if is_cut:
            wire.cut()
        else:
            wire.drop = lambda message: True


@pytest.mark.parametrize("is_cut", [False, True], ids=["silent", "cut off"])
@pytest.mark.parametrize("servers", [(0, 1, 2), (1, 2)], ids=["all", "two of three"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_ends_by_its_deadline_and_says_who_answered(name, servers, is_cut):
    act, _ = CALLS[name]

    async def work():
        async with scene() as it:
            silence(it, servers, is_cut)
            began = asyncio.get_running_loop().time()
            error = None
            try:
                await act(it)
            except Unavailable as e:
                error = e
            except PartialWrite as e:
                error = e.results[0]
            took = asyncio.get_running_loop().time() - began
            assert took <= TIMEOUT_S + 0.01
            if error is None:
                known = {"read", "read_range", "segment", "check"} if servers == (1, 2) else set()
                assert name in NEVER_FAIL | known, "it succeeded without a majority"
                return
            said = str(error)
            assert f"{3 - len(servers)} of 3 servers" in said, said
            for server in servers:
                assert f"s{server}" in said, said
            if servers == (1, 2):
                assert "s0" not in said, said

    simulated(work)


@pytest.mark.parametrize("timeout", [0.013, 0.0501, 0.13, 0.4])
@pytest.mark.parametrize(
    "act",
    [
        lambda it, timeout: it.segment.settle(5, b"v", timeout=timeout),
        lambda it, timeout: it.space.alloc(timeout=timeout),
    ],
    ids=["settle", "alloc"],
)
def test_a_pause_after_a_lost_race_ends_at_the_deadline(act, timeout, monkeypatch):
    """The pauses are as long as they may be, and every write comes too late."""

    async def work():
        async with scene() as it:
            monkeypatch.setattr(it.worm.rng, "uniform", lambda lo, hi: hi)
            registers = it.worm.registers

            def lost(*args):
                future = asyncio.get_running_loop().create_future()
                future.set_exception(CaptureLost("somebody was quicker"))
                return future

            monkeypatch.setattr(registers, "write", lost)
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(Unavailable, match="captured it again and again"):
                await act(it, timeout)
            assert loop.time() - began <= timeout + 1e-6

    simulated(work)


def test_contention_is_not_called_silence():
    async def work():
        async with scene() as it:
            theirs = await it.other.space("s").segment(0)

            async def steal():
                while True:
                    await theirs.capture(timeout=1)
                    await asyncio.sleep(0.01)

            stealing = [asyncio.ensure_future(steal()) for _ in range(3)]
            for wire in it.worm.wires:  # it is always too late
                wire.answer = lambda request_id, message, wire=wire: wire._loop.call_later(
                    0.05, wire._deliver, request_id, message
                )
            with pytest.raises(Unavailable, match="captured it again and again"):
                await it.segment.settle(5, b"v", timeout=2)
            for task in stealing:
                task.cancel()

    simulated(work)


@pytest.mark.parametrize("timeouts", [(1.0, 3.0), (3.0, 1.0), (2.0, 2.0, 1.0), (1.0, 2.0, 3.0)])
def test_of_callers_of_one_write_each_waits_as_long_as_it_said(timeouts):
    async def work():
        async with scene() as it:
            silence(it, (0, 1, 2), False)
            loop = asyncio.get_running_loop()
            began = loop.time()

            async def write(timeout):
                with pytest.raises(Unavailable, match="0 of 3 servers answered"):
                    await it.segment.write(3, b"v", it.token, timeout=timeout)
                return loop.time() - began

            took = await asyncio.gather(*map(write, timeouts))
            assert took == pytest.approx(timeouts, abs=0.002)

    simulated(work)
