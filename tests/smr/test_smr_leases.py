"""What is had for a lease: one holder at a time, whatever clocks say; a cancel leaves nothing."""

import asyncio
import contextlib
import logging
import random
import sys

import pytest
from smr_worlds import Group

import wormspace
from cancelling import cancel_everywhere
from wormspace.errors import WormError
from wormspace.sim import World
from wormspace.sim.world import LEASE_DRIFT, State
from wormspace.smr import (
    KeyValue,
    Leaderless,
    LeaseLost,
    Lock,
    Queue,
    Rotating,
    StateMachine,
    Sticky,
    Table,
    command,
    holding,
    query,
    taking,
)
from wormspace.smr.leases import Stopwatches
from wormspace.smr.records import Packet
from wormspace.smr.replica_context import ROOM_BYTES

HOUR_S = 3600.0
STRATEGIES = {"sticky": Sticky(0.5), "rotating": Rotating(0.5), "leaderless": Leaderless()}


@contextlib.asynccontextmanager
async def one(kind, **options):
    async with (
        wormspace.connect("memory:") as worm,
        await worm.replicate(kind, "thing", leadership=Sticky(0.3), **options) as replica,
    ):
        yield replica


# ---------------------------------------------------------------- when a lease ends


def test_a_stopwatch_starts_when_a_lease_is_first_seen_and_stops_with_it():
    watches = Stopwatches()
    assert watches.look(5.0, {"a": 2.0}) == []
    assert watches.look(6.9, {"a": 2.0, "b": 1.0}) == []
    assert watches.look(7.0, {"a": 2.0, "b": 1.0}) == ["a"]
    assert watches.look(7.1, {"b": 1.0}) == []
    assert watches.look(8.0, {"a": 2.0, "b": 1.0}) == ["b"], "another one of that name"


@pytest.mark.parametrize("long", [10, 100, 200, 5000])
async def test_leases_with_long_names_go_into_a_register_with_the_largest_packets(long):
    async with one(Lock) as lock:
        context = lock._core.context
        limit = context.largest_packet + ROOM_BYTES
        context.lapsed = all_of_them = [f"{n:0{long}d}" for n in range(12)]
        told = []
        packets = [Packet(bytes(8), 1, 1, bytes(context.largest_packet))]
        while context.lapsed:
            before = context.lapsed
            assert len(context.batch(packets)) <= limit
            packets = []  # what is too long for the room goes with packets that leave more
            told += before[: len(before) - len(context.lapsed)]
        assert told == all_of_them


async def test_a_token_that_is_too_long_is_its_callers_mistake():
    async with one(Queue) as queue:
        await queue.put(b"a job")
        with pytest.raises(ValueError, match="a token has 128 characters at most, not 5000"):
            await queue.take(30.0, token="x" * 5000)
        assert await queue.peek() == b"a job"
    async with one(Lock) as lock:
        with pytest.raises(ValueError, match="a token has 128 characters at most, not 129"):
            await lock.acquire("me", 30.0, "x" * 129)
        assert await lock.acquire("me", 30.0, "x" * 128) is not None


class Names(StateMachine):
    """Leases of any name."""

    running: Table[int, float]
    lapsed: list[int] = []  # noqa: RUF012

    @command
    def begin(self, length: int, lease_s: float) -> None:
        self.running[length] = lease_s

    @query
    def ended(self) -> list[int]:
        return list(self.lapsed)

    def leases(self) -> dict[str, float]:
        longest_first = reversed(list(self.running.items()))
        return {"x" * length: lease_s for length, lease_s in longest_first}

    def on_lapse(self, lease: str) -> None:
        del self.running[len(lease)]
        self.lapsed.append(len(lease))


async def test_a_lease_whose_name_goes_into_no_register_holds_up_no_other(caplog):
    async with one(Names) as names:
        too_long = names._core.context.largest_packet
        await names.begin(too_long, 0.01)
        await names.begin(too_long + 1, 0.01)
        await names.begin(5, 0.01)
        async with asyncio.timeout(60):
            while not (ended := await names.ended()):  # noqa: ASYNC110 - lapses by itself
                await asyncio.sleep(0.05)
        assert ended == [5]
        assert names.status().failed == ""
    said = [record for record in caplog.records if "a lease does not end" in record.message]
    assert 1 <= len(said) <= 2, "once for each"


def in_clocks(seed, strategy, drive, machine=Lock, rates=()):
    """A world whose replicas go by their hosts' clocks; `rates`: of the monotonic ones."""
    logging.getLogger("wormspace").setLevel(logging.CRITICAL)
    with World(seed) as world:
        for i, rate in enumerate(rates):
            world.host(f"r{i + 1}").rate = rate
        options = {"leadership": STRATEGIES[strategy]}
        group = Group(world, machine, options=lambda name: options)

        async def main():
            group.start_servers()
            group.start_replicas()
            await group.all_started()
            return await drive(world, group)

        return world.run(main(), deadline_s=400)


def on(world, group, name, work):
    return world.spawn(name, lambda: work(group.replicas[name]), name="call", may_fail=True).wait()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_clock_that_was_an_hour_ahead_holds_no_lease_for_an_hour(strategy):
    async def drive(world, group):
        leader = await group.leader()
        world.host(leader).set_clock(HOUR_S, 1.0)
        assert await on(world, group, leader, lambda lock: lock.acquire("a", 2.0))
        world.host(leader).processes[-1].crash()
        other = next(name for name in group.names if name != leader)
        began = world.now

        async def acquire(lock):
            while await lock.acquire("b", 2.0) is None:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.1)

        await on(world, group, other, acquire)
        assert world.now - began < 10

    in_clocks(1, strategy, drive)


def test_a_key_lives_no_hour_longer_for_a_clock_that_was_an_hour_ahead():
    async def drive(world, group):
        leader = await group.leader()
        world.host(leader).set_clock(HOUR_S, 1.0)
        await on(world, group, leader, lambda kv: kv.put("a", b"x", ttl_s=2.0))
        world.host(leader).processes[-1].crash()
        other = next(name for name in group.names if name != leader)
        began = world.now

        async def see_it_go(kv):
            while await kv.get("a") is not None:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.1)

        await on(world, group, other, see_it_go)
        assert world.now - began < 10

    in_clocks(1, "sticky", drive, KeyValue)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_clock_that_jumps_ahead_ends_no_lease(strategy):
    async def drive(world, group):
        leader = await group.leader()
        other = next(name for name in group.names if name != leader)
        began = world.now
        assert await on(world, group, leader, lambda lock: lock.acquire("a", 8.0))
        for name in group.names:
            world.host(name).set_clock(HOUR_S, 1.0)

        async def acquire(lock):
            while await lock.acquire("b", 2.0) is None:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.1)

        await on(world, group, other, acquire)
        assert 8.0 <= world.now - began < 10

    in_clocks(2, strategy, drive)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_are_never_inside_whatever_clocks_say_and_whoever_is_cut_off(strategy):
    """Blocks that hold one lock, under one owner's name; clocks jump, leaders are cut off."""
    fences, inside = [], {}

    async def contend(lock, name, rng):
        while True:
            with contextlib.suppress(WormError):
                async with holding(lock, "worker", 1.5, rng=rng) as grant:
                    inside[name] = grant.fence
                    assert len(inside) == 1, f"inside at once, by fences: {inside}"
                    fences.append(grant.fence)
                    try:
                        await asyncio.sleep(rng.uniform(0.1, 3))
                    finally:
                        del inside[name]
            await asyncio.sleep(rng.uniform(0, 0.3))

    async def drive(world, group):
        rng = world.random_for("clocks")
        works = []
        for name in group.names:
            works += [
                world.spawn(
                    name,
                    lambda name=name, i=i: contend(
                        group.replicas[name], f"{name}.{i}", random.Random(f"{name}{i}")
                    ),
                    name="work",
                    may_fail=True,
                )
                for i in range(2)
            ]
        for _ in range(12):
            await asyncio.sleep(rng.uniform(0.3, 1.5))
            name = rng.choice(group.names)
            if rng.random() < 0.6:
                error = rng.choice((0.0, 5.0, HOUR_S, -HOUR_S))
                world.host(name).set_clock(error, rng.uniform(0.9, 1.1))
            else:
                cut = world.network.cut([name])
                world.after(rng.uniform(0.2, 2.5), lambda cut=cut: world.network.heal(cut))
        for work in works:
            assert work.state is State.RUNNING, "a worker has failed"

    in_clocks(1, strategy, drive)
    assert len(fences) > 5
    assert fences == sorted(set(fences))


def out_and_in(lease_s):
    """When a block was over whose holder was cut off, and when somebody else had the lock.

    The holder's monotonic clock is as slow as may be, and the others' are as fast.
    """
    told = {}

    async def drive(world, group):
        cut = []

        async def hold(lock):
            with contextlib.suppress(WormError):
                async with holding(lock, "slow", lease_s):
                    cut.append(world.network.cut(["r1"]))
                    try:
                        await asyncio.Event().wait()
                    finally:
                        told["out"] = world.now

        async def take(lock):
            while not cut or await lock.acquire("fast", lease_s) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            told["in"] = world.now

        holder = world.spawn("r1", lambda: hold(group.replicas["r1"]), name="hold")
        await on(world, group, "r2", take)
        await holder.wait()

    in_clocks(3, "sticky", drive, rates=(1 - LEASE_DRIFT, 1 + LEASE_DRIFT, 1 + LEASE_DRIFT))
    return told["out"], told["in"]


def test_a_holder_with_a_slow_clock_is_out_before_another_one_is_in():
    out, into = out_and_in(30.0)
    assert out < into


def test_a_holder_that_relies_on_all_of_its_lease_is_not(monkeypatch):
    monkeypatch.setattr(sys.modules["wormspace.smr.holding"], "SURE", 1.0)
    out, into = out_and_in(30.0)
    assert into < out


class LateAnswers:
    """A lock that grants at once and answers late; after two renewals it answers no more."""

    def __init__(self):
        self.granted_at = 0.0
        self.renewals = 0

    async def acquire(self, owner, lease_s, token):
        return "grant"

    async def renew(self, token, lease_s):
        self.renewals += 1
        if self.renewals > 2:
            await asyncio.Event().wait()
        self.granted_at = asyncio.get_running_loop().time()
        await asyncio.sleep(lease_s / 2)
        return "grant"

    async def release(self, token):
        return None


def test_a_lease_runs_from_the_moment_it_was_asked_for_however_late_the_answer_is():
    async def hold(lock):
        with contextlib.suppress(WormError):
            async with holding(lock, "late", 10.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    with World(1) as world:
        lock = LateAnswers()
        out = world.run(hold(lock), deadline_s=100)
    assert out < lock.granted_at + 10.0


# ---------------------------------------------------------------- blocks


def test_holding_waits_renews_and_releases():
    order = []

    async def hold(lock, owner):
        async with holding(lock, owner, 0.6) as grant:
            order.append((owner, "has it", grant.fence))
            await asyncio.sleep(1.5)  # longer than the lease
            order.append((owner, "gives it back", grant.fence))

    async def main():
        async with one(Lock) as lock:
            await asyncio.gather(hold(lock, "a"), hold(lock, "b"))
            return await lock.holder()

    with World(1) as world:
        assert world.run(world.spawn("host", main).wait(), deadline_s=100) is None
    owners = [owner for owner, *_ in order]
    assert owners[0] == owners[1] != owners[2] == owners[3]
    assert [fence for *_, fence in order] == [1, 1, 2, 2]


async def test_two_blocks_with_one_owners_name_exclude_each_other():
    async with one(Lock) as lock:
        inside, fences = [], []

        async def hold():
            async with holding(lock, "worker-7", 5) as grant:
                inside.append(grant.fence)
                fences.append(grant.fence)
                await asyncio.sleep(0.05)
                assert inside == [grant.fence]
                inside.remove(grant.fence)

        await asyncio.gather(hold(), hold(), hold())
        assert fences == [1, 2, 3]


async def lose(lock):
    await lock.release((await lock.holder()).token)
    assert await lock.acquire("b", 100)


async def lose_inside(lock, *, then=None):
    async with holding(lock, "a", 0.3):
        await lose(lock)
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            if then is None:
                raise
            then()


async def test_a_holder_that_loses_its_lease_is_told_and_nothing_else_is_cancelled():
    async with one(Lock) as lock:
        with pytest.raises(LeaseLost):
            await lose_inside(lock)
        task = asyncio.current_task()
        assert task.cancelling() == 0
        async with asyncio.TaskGroup() as group:  # looks at `cancelling`
            group.create_task(asyncio.sleep(0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)


async def test_a_cancel_from_outside_stays_one_though_the_lease_is_lost():
    async with one(Lock) as lock:

        def and_by_ctrl_c():
            asyncio.current_task().cancel()
            raise asyncio.CancelledError

        task = asyncio.create_task(lose_inside(lock, then=and_by_ctrl_c))
        await asyncio.wait([task])
        assert task.cancelled()


async def test_a_block_that_swallows_its_cancellation_is_told_all_the_same():
    async with one(Lock) as lock:
        with pytest.raises(LeaseLost):
            await lose_inside(lock, then=lambda: None)
        assert asyncio.current_task().cancelling() == 0


async def test_a_block_that_fails_for_another_reason_says_that():
    async with one(Lock) as lock:
        with pytest.raises(KeyError):
            await lose_inside(lock, then=lambda: {}["nothing"])
        assert asyncio.current_task().cancelling() == 0


async def test_a_block_takes_a_job_and_finishes_it_or_gives_it_back():
    async with one(Queue) as queue:
        await queue.put(b"x")
        with contextlib.suppress(KeyError):
            async with taking(queue) as job:
                assert job.item == b"x"
                raise KeyError
        assert await queue.peek() == b"x"
        async with taking(queue, 0.3):
            await asyncio.sleep(1)  # longer than the lease
            assert await queue.peek() is None
        assert await queue.size() == 0


# ---------------------------------------------------------------- cancelled anywhere

LONG_S = 10_000.0


def test_a_lock_can_be_asked_for_and_cancelled_anywhere():
    async def act(lock):
        async with holding(lock, "a", LONG_S, rng=random.Random(1)):
            await asyncio.sleep(0.01)

    async def check(lock):
        assert await lock.holder() is None

    assert cancel_everywhere(lambda: one(Lock, rng=random.Random(2)), act, check) > 2


def test_a_job_can_be_taken_and_cancelled_anywhere_and_is_not_lost():
    @contextlib.asynccontextmanager
    async def setting():
        async with one(Queue, rng=random.Random(2)) as queue:
            await queue.put(b"x")
            queue.finished = False
            yield queue

    async def act(queue):
        async with taking(queue, LONG_S, rng=random.Random(1)):
            await asyncio.sleep(0.01)
            queue.finished = True

    async def check(queue):
        assert await queue.peek() == (None if await queue.size() == 0 else b"x")
        assert queue.finished or await queue.size() == 1

    assert cancel_everywhere(setting, act, check) > 2
