"""A linearizable read has a confirmation behind it, or no answer.

Connections close, leaders are cut off and replaced, captures are stolen, all while clients read.
"""

import asyncio
import logging

import pytest
from smr_worlds import Group, Witness

from sequential_objects import KeyValueStore
from wormspace.errors import Closed, ProtocolViolation, WormError
from wormspace.sim import World, check
from wormspace.sim.linearizability import Outcome
from wormspace.sim.world import State
from wormspace.smr import Leaderless, Rotating, Sticky
from wormspace.smr.replica_context import NotLeading
from wormspace.smr.shared import Shared

STRATEGIES = {
    "sticky": lambda name: Sticky(0.4),
    "patient": lambda name: PATIENT[name],
    "rotating": lambda name: Rotating(0.4),
    "leaderless": lambda name: Leaderless(),
}

PATIENT = {"r1": Sticky(5.0), "r2": Sticky(5.0), "r3": Sticky(0.4)}
"""A leader that looks seldom whether it still leads, and one that takes over soon."""


class Campaign:
    """One world in which reading is made hard."""

    def __init__(self, world, leadership):
        self.world = world
        self.rng = world.random_for("reads")
        # Short calls: a read that is answered late must have begun late to be found out.
        self.group = Group(
            world, options=lambda name: {"leadership": leadership(name)}, size=8, patience_s=0.4
        )
        self.closed = self.stolen = 0

    async def reader(self, replica, client, rng):
        """Reads without a pause, beside the writers."""
        while not self.group.stopping:
            await self.group.record(replica, client, "get", rng.choice("abc"))
            await asyncio.sleep(rng.random() * 0.05)

    async def work(self, replica, client, rng):
        await asyncio.gather(
            self.group.work(replica, client, rng), self.reader(replica, f"{client}r", rng)
        )

    def within(self, name, work):
        """Run a coroutine in the replica's process."""
        self.world.spawn(name, work, name="fault", may_fail=True)

    async def usurp(self, name):
        """Cut a leader off from the servers, and close its connection when it was replaced."""
        world, replica = self.world, self.group.replicas[name]
        process = world.host(name).processes[-1]
        cut = world.network.cut([name])
        await asyncio.sleep(self.rng.uniform(0.6, 2.0))
        if self.rng.random() < 0.8 and process.state is State.RUNNING:
            self.closed += 1
            self.within(name, replica._core.context.space.client.close)
        await asyncio.sleep(self.rng.uniform(0.05, 0.3))
        world.network.heal(cut)
        if process.state is State.RUNNING:
            process.restart()

    def steal(self, name):
        """Capture what a leader is about to write, as a reader may have to."""
        replica = self.group.replicas[name]

        async def capture():
            space = replica._core.context.space
            segment = await space.segment(await space.tail() - 1)
            self.stolen += 1
            await segment.capture()

        self.within(name, capture)

    async def trouble(self):
        while not self.group.stopping:
            await asyncio.sleep(self.rng.uniform(0.05, 0.4))
            up = [n for n in self.group.replicas if self.world.host(n).alive]
            leaders = [n for n in up if self.group.replicas[n].status().leads]
            if not leaders:
                continue
            if self.rng.random() < 0.7:
                await self.usurp(self.rng.choice(leaders))
            else:
                self.steal(self.rng.choice(up))

    async def drive(self, duration_s):
        self.group.start_servers()
        self.group.start_replicas(self.work)
        await self.group.all_started()
        troubling = asyncio.ensure_future(self.trouble())
        await asyncio.sleep(duration_s)
        self.group.stopping = True
        await troubling
        await asyncio.sleep(3)


def check_reads(group):
    verdict = check(KeyValueStore(), group.history.operations(), budget=300_000)
    assert verdict.outcome is not Outcome.VIOLATION, verdict.explanation


def campaign(seed, strategy, duration_s=8.0):
    logging.getLogger("wormspace").setLevel(logging.CRITICAL)
    with World(seed) as world, Witness() as witness:
        run = Campaign(world, STRATEGIES[strategy])
        world.run(run.drive(duration_s), deadline_s=200)
        witness.check()
        check_reads(run.group)
        return run


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_reads_are_linearizable_while_connections_close_and_captures_are_stolen(strategy):
    run = campaign(2, strategy)
    assert run.closed >= 1
    assert run.group.answered > 100


@pytest.mark.parametrize("offset", range(6))
def test_a_closing_connection_is_no_confirmation(offset):
    """A leader that does not know yet that it was replaced is asked, and its connection closes."""
    logging.getLogger("wormspace").setLevel(logging.CRITICAL)
    answers = []

    async def read(replica):
        try:
            answers.append(await replica.get("a"))
        except WormError as e:
            answers.append(e)

    async def drive(world, group):
        group.start_servers()
        group.start_replica("r1")
        leader = await group.leader()
        group.start_replica("r2")
        group.start_replica("r3")
        await group.all_started()

        def within(name, work):
            return world.spawn(name, work, name="call", may_fail=True)

        await within(leader, lambda: group.replicas[leader].put("a", "old")).wait()
        world.network.cut([leader])
        await within("r3", lambda: group.replicas["r3"].put("a", "new")).wait()
        await asyncio.sleep(1 + 0.2 * offset)
        within(leader, lambda: read(group.replicas[leader]))
        await asyncio.sleep(0.1)
        within(leader, group.replicas[leader]._core.context.space.client.close)
        await asyncio.sleep(2)

    with World(4) as world:
        group = Group(world, options=lambda name: {"leadership": PATIENT[name]}, patience_s=0.3)
        world.run(drive(world, group), deadline_s=60)
    assert len(answers) == 1
    assert isinstance(answers[0], WormError), f"answered {answers[0]!r}"


@pytest.mark.soak
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_reads_are_linearizable_in_many_worlds(strategy):
    for seed in range(100, 200):
        campaign(seed, strategy)


ERRORS = [Closed("closed"), ProtocolViolation("x"), ValueError("a fault of ours"), NotLeading("no")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_whatever_the_finder_raises_is_every_askers_error(error):
    async def find():
        await asyncio.sleep(0)
        raise error

    shared = Shared(find)
    answers = await asyncio.gather(*(shared.ask() for _ in range(3)), return_exceptions=True)
    assert answers == [error] * 3


async def test_a_cancelled_finder_leaves_nobody_with_an_answer():
    shared = Shared(asyncio.Event().wait)
    asking = [asyncio.ensure_future(shared.ask()) for _ in range(3)]
    await asyncio.sleep(0.01)
    shared.end()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(answer, NotLeading) for answer in answers)
    with pytest.raises(NotLeading):
        await shared.ask()


async def test_an_answer_is_for_those_who_asked_before_it_was_looked_for():
    found = asyncio.Queue()
    begun = []

    async def find():
        begun.append(len(begun))
        return await found.get()

    shared = Shared(find)
    first = [asyncio.ensure_future(shared.ask()) for _ in range(2)]
    await asyncio.sleep(0.01)
    late = asyncio.ensure_future(shared.ask())
    await asyncio.sleep(0.01)
    found.put_nowait("one")
    assert await asyncio.gather(*first) == ["one", "one"]
    assert not late.done()
    found.put_nowait("two")
    assert await late == "two"
    assert len(begun) == 2


async def test_who_stops_waiting_takes_nothing_from_others():
    found = asyncio.get_running_loop().create_future()

    async def find():
        return await found

    shared = Shared(find)
    one, other = (asyncio.ensure_future(shared.ask()) for _ in range(2))
    await asyncio.sleep(0.01)
    one.cancel()
    await asyncio.sleep(0)
    found.set_result(7)
    assert await other == 7


@pytest.mark.parametrize("ends", ["cancelled", "failed"])
async def test_who_stopped_waiting_is_passed_over_when_no_answer_comes(ends):
    found = asyncio.get_running_loop().create_future()

    async def find():
        return await found

    shared = Shared(find)
    one, other = (asyncio.ensure_future(shared.ask()) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.sleep(0)
    shared.end() if ends == "cancelled" else found.set_exception(NotLeading("no"))
    done, _ = await asyncio.wait([other], timeout=5)
    assert done == {other}
    assert isinstance(other.exception(), NotLeading)
