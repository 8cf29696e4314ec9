"""Processes that crash, pause and restart; fault schedules; and one history per seed."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wormspace.errors import StoreFull
from wormspace.sim import (
    DeadlineExceeded,
    Deadlock,
    FaultPlan,
    FaultSchedule,
    Loss,
    NetworkOptions,
    ProcessKilled,
    Unhandled,
    World,
)
from wormspace.sim.faults import KINDS
from wormspace.sim.world import State, current


class Counter(asyncio.Protocol):
    """Answers each frame with the same frame."""

    def __init__(self):
        self.rest = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.rest += data
        while len(self.rest) >= 8:
            self.transport.write(self.rest[:8])
            self.rest = self.rest[8:]


class Caller(asyncio.Protocol):
    """One request at a time."""

    def __init__(self):
        self.waiting = None

    def data_received(self, data):
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(data)

    def connection_lost(self, error):
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(error or ConnectionError())


async def serve():
    loop = asyncio.get_running_loop()
    await loop.create_server(Counter, "0.0.0.0", 7000)
    engine = current().world.host(current().host).disk().open()
    while True:
        batch = engine.begin()
        batch.put("t", b"time", repr(loop.time()).encode())
        try:
            await engine.commit(batch)
        except StoreFull:
            pass
        await asyncio.sleep(0.01)


async def call(target, rounds):
    loop = asyncio.get_running_loop()
    done = 0
    transport = protocol = None
    while done < rounds:
        try:
            async with asyncio.timeout(0.5):
                if transport is None or transport.is_closing():
                    transport, protocol = await loop.create_connection(Caller, target, 7000)
                protocol.waiting = loop.create_future()
                transport.write(b"\0\0\0\4" + done.to_bytes(4, "big"))
                await protocol.waiting
                done += 1
        except OSError:
            await asyncio.sleep(0.1)


def history(seed, rounds=150):
    """A run with every kind of fault; returns the transcript, the digest and the faults."""
    options = NetworkOptions(framed=True, loss=Loss(0.01, 0.01, 0.05), split=0.1)
    with World(seed, network=options, trace_capacity=100_000) as world:
        servers, clients = ["s1", "s2", "s3"], ["c1", "c2"]
        for server in servers:
            world.spawn(server, serve)
        faults = FaultSchedule(world, FaultPlan(every_s=(0.01, 0.3)), servers, clients)
        faults.start()
        callers = [
            world.spawn(client, lambda target=server: call(target, rounds))
            for client in clients
            for server in servers
        ]

        async def drive():
            await asyncio.sleep(10)
            faults.stop()
            await asyncio.gather(*(caller.wait() for caller in callers))

        world.run(drive(), deadline_s=120)
        return world.trace.transcript(100_000), world.digest(), faults.counts


def test_the_same_seed_gives_the_same_history_byte_for_byte():
    assert history(11) == history(11)


def test_different_seeds_give_different_histories():
    assert len({history(seed, 20)[1] for seed in range(4)}) == 4


def test_a_history_does_not_depend_on_the_interpreter_or_its_hash_seed():
    script = "import test_world; print(test_world.history(5, 20)[1])"

    def elsewhere(hash_seed):
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env=environment, capture_output=True, check=True).stdout

    here = history(5, 20)[1].encode()
    assert elsewhere("1").strip() == elsewhere("2").strip() == here


def test_every_kind_of_fault_strikes_and_the_clients_still_finish():
    counts = {}
    for seed in range(3):
        for kind, count in history(seed, 100)[2].items():
            counts[kind] = counts.get(kind, 0) + count
    assert set(counts) == set(KINDS)


def test_a_bound_on_hurt_servers_is_kept():
    with World(2) as world:
        servers = ["s1", "s2", "s3"]
        for server in servers:
            world.spawn(server, serve)
        plan = FaultPlan(("crash", "pause"), every_s=(0.01, 0.1), max_hurt=1)
        faults = FaultSchedule(world, plan, servers)
        faults.start()

        async def watch():
            for _ in range(1000):
                hurt = [s for s in servers if all(not p.running for p in world.host(s).processes)]
                assert len(hurt) <= 1
                await asyncio.sleep(0.01)

        world.run(watch())
        assert sum(faults.counts.values()) > 5


# -- processes -------------------------------------------------------------------------------------


def test_a_crashed_process_runs_nothing_more_not_even_finally():
    ran = []

    async def victim():
        async def child():
            try:
                await asyncio.sleep(5)
            finally:
                ran.append("child's finally")

        asyncio.get_running_loop().call_later(2, ran.append, "timer")
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            try:
                await asyncio.sleep(5)
            finally:
                ran.append("main's finally")

    with World(1) as world:
        process = world.spawn("s1", victim)
        world.after(1, process.crash)
        with pytest.raises(ProcessKilled):
            world.run(process.wait())
        world.run(asyncio.sleep(100))
        assert ran == []
        assert process.state is State.CRASHED


def test_peers_of_a_crashed_process_see_a_reset_at_once_or_after_a_silence():
    def lost_after(silence_s):
        async def client():
            loop = asyncio.get_running_loop()
            _, protocol = await loop.create_connection(Caller, "s1", 7000)
            protocol.waiting = loop.create_future()
            with pytest.raises(ConnectionResetError):
                await protocol.waiting
            return loop.time()

        with World(1) as world:
            server = world.spawn("s1", serve)
            world.after(1, lambda: server.crash(silence_s=silence_s))
            return world.run(world.spawn("c1", client).wait())

    assert lost_after(0.0) == pytest.approx(1, abs=0.01)
    assert lost_after(3.0) == pytest.approx(4, abs=0.01)


def test_a_paused_process_stands_still_and_then_catches_up():
    ticks = []

    async def tick():
        for _ in range(5):
            await asyncio.sleep(1)
            ticks.append(asyncio.get_running_loop().time())

    with World(1) as world:
        process = world.spawn("s1", tick)
        world.after(1.5, process.pause)
        world.after(10, process.resume)
        world.run(process.wait())
    assert ticks == [1, 10, 11, 12, 13]


def test_the_kernel_of_a_paused_server_still_accepts_and_the_server_answers_later():
    async def client():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(Caller, "s1", 7000)
        assert loop.time() < 2
        protocol.waiting = loop.create_future()
        transport.write(b"12345678")
        assert await protocol.waiting == b"12345678"
        return loop.time()

    with World(1) as world:
        server = world.spawn("s1", serve)
        world.run(asyncio.sleep(1))
        server.pause()
        world.after(5, server.resume)
        assert world.run(world.spawn("c1", client).wait()) > 6


def test_a_restarted_process_is_a_new_one_on_the_same_disk():
    starts = []

    async def count():
        disk = current().world.host(current().host).disk()
        engine = disk.open()
        batch = engine.begin()
        batch.put("t", b"starts", bytes([len(starts)]))
        await engine.commit(batch)
        starts.append(engine.view.get("t", b"starts"))
        await asyncio.Event().wait()

    with World(1) as world:
        process = world.spawn("s1", count)
        world.run(asyncio.sleep(1))
        again = process.restart()
        world.run(asyncio.sleep(1))
        assert again is not process
        assert world.host("s1").alive == [again]
    assert starts == [b"\0", b"\1"]


def test_a_process_that_ends_closes_its_connections():
    async def brief():
        loop = asyncio.get_running_loop()
        await loop.create_server(Counter, "s1", 7000)
        await asyncio.sleep(1)
        return "result"

    async def client():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(Caller, "s1", 7000)
        protocol.waiting = loop.create_future()
        with pytest.raises(ConnectionError):
            await protocol.waiting
        return transport.is_closing()

    with World(1) as world:
        server = world.spawn("s1", brief)
        assert world.run(world.spawn("c1", client).wait())
        assert world.run(server.wait()) == "result"


def test_a_process_asked_to_stop_runs_its_finally():
    async def polite():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            current().world.note("s1", "said goodbye")

    with World(1) as world:
        process = world.spawn("s1", polite)
        world.after(1, process.stop)
        world.run(process.wait())
        assert "said goodbye" in world.report()


def test_a_failing_process_fails_the_run_unless_it_may():
    async def fails():
        raise ValueError("broken")

    with World(1) as world:
        world.spawn("s1", fails)
        with pytest.raises(Unhandled, match="main on s1") as caught:
            world.run(asyncio.sleep(1))
    assert isinstance(caught.value.__cause__, ValueError)
    with World(1) as world, pytest.raises(ValueError, match="broken"):
        world.run(world.spawn("s1", fails, may_fail=True).wait())


def test_failures_carry_the_seed_and_the_last_events():
    async def stuck():
        await asyncio.Event().wait()

    with World(77) as world:
        world.note("s1", "the %s event", "last")
        with pytest.raises(Deadlock) as caught:
            world.run(stuck())
    assert "seed 77" in caught.value.__notes__[0]
    assert "the last event" in caught.value.__notes__[0]


def test_a_run_that_takes_too_long_is_a_liveness_failure():
    with World(1) as world, pytest.raises(DeadlineExceeded):
        world.run(asyncio.sleep(100), deadline_s=50)


def test_random_streams_are_independent():
    with World(9) as one, World(9) as other:
        one.random_for("a").random()
        assert one.random_for("b").random() == other.random_for("b").random()
        assert one.random_for("a").random() != one.random_for("b").random()
        assert one.random.random() == other.random.random()


def test_code_outside_any_process_has_no_network():
    with World(1) as world, pytest.raises(RuntimeError, match="spawn"):
        world.run(world.loop.create_connection(Caller, "s1", 7000))
    with pytest.raises(RuntimeError):
        current()


def test_each_machines_monotonic_clock_runs_at_a_rate_of_its_own():
    told = {}

    async def sleep():
        loop = asyncio.get_running_loop()
        for _ in range(1000):
            began = loop.time()
            await asyncio.sleep(0.1)
            assert loop.time() >= began + 0.1, "a timer was early by its own clock"
        told[current().host] = loop.time(), current().world.now

    with World(3, drift=0.1) as world:
        sleepers = [world.spawn(name, sleep) for name in ("s1", "s2")]
        for sleeper in sleepers:
            world.run(sleeper.wait())
        rates = {name: by_it / truly for name, (by_it, truly) in told.items()}
        assert rates == {name: pytest.approx(world.host(name).rate) for name in rates}
        assert len({round(rate, 3) for rate in (*rates.values(), 1.0)}) == 3
