"""Each level keeps what it promises, under faults; and a checker that would notice if it did not.

The state is a list to which every command appends something unique, so that a read shows exactly
which commands it saw.
"""

import asyncio
from dataclasses import dataclass, field

import pytest
from smr_worlds import SMR_PORT, Group, Witness

from wormspace.errors import WormError
from wormspace.sim import FaultPlan, FaultSchedule, World
from wormspace.sim.world import State
from wormspace.smr import (
    Causal,
    Eventual,
    Leaderless,
    Rotating,
    Sequential,
    StateMachine,
    Sticky,
    attach,
    command,
    query,
)


class Journal(StateMachine):
    entries: list[str] = []  # noqa: RUF012

    @command
    def append(self, entry: str) -> int:
        self.entries.append(entry)
        return len(self.entries)

    @query
    def read(self) -> list[str]:
        return self.entries


@dataclass
class Story:
    """What one session did and saw, in its order.

    `steps`: ("wrote", entry), ("read", entries), or ("joined", entries another session had seen).
    """

    steps: list = field(default_factory=list)


class Broken(AssertionError):
    """A level did not keep its promise."""


def check_one_order(stories):
    """All reads are prefixes of one sequence: everybody goes through the same states."""
    reads = [seen for story in stories for kind, seen in story.steps if kind == "read"]
    longest = max(reads, key=len, default=[])
    for seen in reads:
        if longest[: len(seen)] != seen:
            raise Broken(f"no order fits both {seen} and {longest}")
    if len(set(longest)) != len(longest):
        raise Broken("something was applied twice")


def check_sessions(stories):
    """Read your writes, monotonic reads, and what was joined is seen."""
    for story in stories:
        must = []
        for kind, what in story.steps:
            if kind == "wrote":
                must = [*must, what]
            elif kind == "joined":
                must = [*must, *what]
            else:
                missing = [entry for entry in must if entry not in what]
                if missing:
                    raise Broken(f"a read does not show {missing}, which its session had seen")
                must = what


def check_program_order(stories):
    """What a session wrote later comes later."""
    reads = [seen for story in stories for kind, seen in story.steps if kind == "read"]
    longest = max(reads, key=len, default=[])
    place = {entry: at for at, entry in enumerate(longest)}
    for story in stories:
        at = [place[what] for kind, what in story.steps if kind == "wrote" and what in place]
        if at != sorted(at):
            raise Broken("a session's commands were applied in another order")


def test_the_checkers_notice_what_they_are_for():
    check_one_order([Story([("read", ["a"])]), Story([("read", ["a", "b"])])])
    with pytest.raises(Broken, match="no order"):
        check_one_order([Story([("read", ["a"])]), Story([("read", ["b", "a"])])])
    with pytest.raises(Broken, match="twice"):
        check_one_order([Story([("read", ["a", "a"])])])
    with pytest.raises(Broken, match="does not show"):
        check_sessions([Story([("wrote", "a"), ("read", [])])])
    with pytest.raises(Broken, match="does not show"):
        check_sessions([Story([("read", ["a"]), ("read", [])])])
    with pytest.raises(Broken, match="does not show"):
        check_sessions([Story([("joined", ["a"]), ("read", [])])])
    with pytest.raises(Broken, match="another order"):
        check_program_order([Story([("wrote", "a"), ("wrote", "b"), ("read", ["b", "a"])])])


class Play:
    """Sessions at one level on all replicas, with faults; their stories in the end."""

    def __init__(self, level, leadership, *, as_clients=False):
        self.level = level
        self.leadership = leadership
        self.as_clients = as_clients
        self.stories = []
        self.gifts = []
        self.entries = 0

    async def work(self, replica, client, rng):
        """Sessions of some steps each; a session at `Causal` may begin where another one ended.

        As a client, its sessions are answered by any replica, and another one when that is lost.
        """
        target = replica
        if self.as_clients:
            addresses = [(name, SMR_PORT) for name in rng.sample(self.group.names, 3)]
            target = await attach(Journal, "cells", addresses, timeout=4.0, rng=rng)
        while not self.group.stopping:
            story = Story()
            session = target.at(self.level).session()
            known = []
            if isinstance(self.level, Causal) and self.gifts and rng.random() < 0.7:
                token, known = rng.choice(self.gifts)
                session = target.at(self.level).session(token)
                story.steps.append(("joined", known))
            self.stories.append(story)
            for _ in range(rng.randint(1, 8)):
                try:
                    if rng.random() < 0.4:
                        self.entries += 1
                        entry = f"{client}/{self.entries}"
                        await session.append(entry)
                        story.steps.append(("wrote", entry))
                        known = [*known, entry]
                    else:
                        known = await session.read()
                        story.steps.append(("read", known))
                    self.gifts.append((session.token, known))
                except WormError:
                    break
                await asyncio.sleep(rng.random() * 0.05)
        if self.as_clients:
            await target.close()

    def run(self, seed):
        with World(seed) as world, Witness() as witness:
            group = self.group = Group(
                world, Journal, options=lambda name: {"leadership": self.leadership}
            )
            plan = FaultPlan(
                kinds=("isolate", "reset", "slow", "pause"),
                every_s=(0.1, 0.6),
                lasting_s=(0.05, 1.0),
                max_hurt=1,
            )
            faults = FaultSchedule(world, plan, group.servers, group.names)
            rng = world.random_for("play")

            async def drive():
                group.start_servers()
                group.start_replicas(self.work)
                faults.start()
                for _ in range(6):
                    await asyncio.sleep(1)
                    name = rng.choice(group.names)
                    if rng.random() < 0.5:
                        cut = world.network.cut([name])
                        world.after(0.7, lambda cut=cut: world.network.heal(cut))
                    elif world.host(name).processes[-1].state is State.RUNNING:
                        world.host(name).processes[-1].restart()
                faults.stop()
                await asyncio.sleep(3)
                group.stopping = True
                await asyncio.sleep(8)
                finals = [
                    replica._core.learner.engine.machine.entries
                    for replica in group.replicas.values()
                ]
                assert len(finals) == 3
                assert finals[0] == finals[1] == finals[2], "the replicas do not come together"
                self.final = finals[0]

            world.run(drive(), deadline_s=100)
            witness.check()
        return self.stories


LEVELS = {"sequential": Sequential(), "causal": Causal(), "eventual": Eventual()}


STRATEGIES = {"sticky": Sticky(0.5), "rotating": Rotating(0.5), "leaderless": Leaderless()}


@pytest.mark.parametrize("as_clients", [False, True], ids=["replicas", "clients"])
@pytest.mark.parametrize("leadership", STRATEGIES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(3))
def test_every_level_keeps_its_promise(level, leadership, as_clients, seed):
    play = Play(LEVELS[level], STRATEGIES[leadership], as_clients=as_clients)
    stories = play.run(seed)
    reads = sum(kind == "read" for story in stories for kind, _ in story.steps)
    assert reads > 50
    check_one_order(stories)
    written = [what for story in stories for kind, what in story.steps if kind == "wrote"]
    lost = [entry for entry in written if entry not in play.final]
    assert not lost, "acknowledged, and gone"
    if level != "eventual":
        check_sessions(stories)
        check_program_order(stories)


def test_eventual_reads_are_really_weaker():
    """Or the levels would not be needed: some session does not see its own write at once."""
    stories = Play(Eventual(), Sticky(0.5)).run(0)
    with pytest.raises(Broken):
        check_sessions(stories)
