"""Simulated worlds with servers and replicas, and what must hold in them.

The claims that every world checks, whatever happens in it:

* at equal positions all replicas have equal states (the whole state is hashed after each register);
* the history of what clients called and were answered is linearizable.
"""

from __future__ import annotations

import asyncio
import logging

from digests import state_digest

import wormspace
from sequential_objects import KeyValueStore
from wormspace.errors import Unavailable, WormError
from wormspace.server.limits import ServerIdentity
from wormspace.sim import FaultPlan, FaultSchedule, History, World, check
from wormspace.sim.linearizability import Outcome
from wormspace.sim.serving import PORT, serving
from wormspace.sim.world import LEASE_DRIFT, State
from wormspace.smr import StateMachine, Table, Tuning, command, query
from wormspace.smr import engine as engine_module

SMR_PORT = 7100
TIMEOUT_S = 1.0
RECOVERY_S = 40.0
SETTLING_S = 20.0

KEYS = ("a", "b", "c")


class Cells(StateMachine):
    """What `sequential_objects.KeyValueStore` describes."""

    cells: Table[str, str]

    @command
    def put(self, key: str, value: str) -> None:
        self.cells[key] = value

    @command
    def append(self, key: str, text: str) -> None:
        self.cells[key] = self.cells.get(key, "") + text

    @command
    def delete(self, key: str) -> None:
        self.cells.pop(key, None)

    @command
    def cas(self, key: str, old: str | None, new: str) -> bool:
        if self.cells.get(key) != old:
            return False
        self.cells[key] = new
        return True

    @query
    def get(self, key: str) -> str | None:
        return self.cells.get(key)


class StatesDiffer(AssertionError):
    """Two replicas have different states at one position."""


class Witness:
    """Sees the state of every replica after every register, across crashes.

    Use it as a context: it looks over the shoulder of every engine meanwhile.
    """

    def __init__(self):
        self.states = {}
        self.first = None

    def __enter__(self):
        self._apply = apply = engine_module.Engine.apply

        def watched(engine, raw, size, turns=1):
            result = apply(engine, raw, size, turns)
            seen = (engine.chain, state_digest(engine), engine.emitted)
            known = self.states.setdefault(engine.position, seen)
            if known != seen and self.first is None:
                self.first = engine.position
            return result

        engine_module.Engine.apply = watched
        return self

    def __exit__(self, *_):
        engine_module.Engine.apply = self._apply

    def check(self):
        if self.first is not None:
            raise StatesDiffer(f"two replicas have different states at {self.first}")


class Group:
    """Three servers and some replicas in a world; workers call the replicas.

    Args:
        options: for `replicate`, by replica name.
        limits: of the servers.
        patience_s: how long a register's call may take; a replica's may take twice that.
    """

    def __init__(
        self,
        world,
        machine=Cells,
        *,
        replicas=3,
        servers=3,
        options=None,
        size=16,
        patience_s=2.0,
        limits=None,
        real_store=False,
    ):
        self.real_store = real_store
        self.limits = limits
        self.patience_s = patience_s
        self.world = world
        self.machine = machine
        self.servers = [f"s{i + 1}" for i in range(servers)]
        self.names = [f"r{i + 1}" for i in range(replicas)]
        self.url = "worm://" + ",".join(f"{name}:{PORT}" for name in self.servers)
        self.options = options or (lambda name: {})
        self.size = size
        self.history = History()
        self.replicas = {}
        self.lives = {}
        self.stopping = False
        self.answered = 0
        self.unknown = 0
        self.calls = 0
        self._work = None

    def start_servers(self):
        for name in self.servers:
            identity = ServerIdentity("cl", name, 0, 1, len(self.servers))
            server = serving(identity, limits=self.limits, real_store=self.real_store)
            self.world.spawn(name, server)

    def start_replicas(self, work=None):
        """Replicas on hosts of their own; each runs `work(replica, name, rng)` while it lives."""
        self._work = work
        for name in self.names:
            self.start_replica(name)

    def start_replica(self, name):
        return self.world.spawn(name, lambda: self._live(name))

    async def _live(self, name):
        life = self.lives[name] = self.lives.get(name, 0) + 1
        world = self.world
        rng = world.random_for(f"{name}.{life}")
        while True:
            try:
                worm = await wormspace.connect(self.url, timeout=self.patience_s, rng=rng)
                break
            except Unavailable:
                pass
        arguments = {
            "replica": name,
            "tuning": Tuning(segment_size=self.size, audit_s=0.5),
            **self.options(name),
        }
        while True:
            try:
                replica = await worm.replicate(
                    self.machine,
                    "cells",
                    host=name,
                    port=SMR_PORT,
                    clock=world.host(name).clock,
                    rng=rng,
                    timeout=2 * self.patience_s,
                    **arguments,
                )
                break
            except WormError as e:
                world.note(name, "cannot start: %s", str(e))
                await asyncio.sleep(0.2)
        self.replicas[name] = replica
        if self._work is not None:
            await asyncio.gather(
                *(self._work(replica, f"{name}.{life}.{i}", rng) for i in range(2))
            )
        await asyncio.Event().wait()

    async def all_started(self):
        """Return when every replica was started."""
        for name in self.names:
            while name not in self.replicas:  # noqa: ASYNC110 - in other processes
                await asyncio.sleep(0.01)

    async def leader(self):
        """The name of the replica that leads, once there is one."""
        while True:
            for name, replica in self.replicas.items():
                if self.world.host(name).alive and replica.status().leads:
                    return name
            await asyncio.sleep(0.01)

    # ------------------------------------------------------------ work

    async def work(self, replica, client, rng):
        """Calls at random, recorded; a client whose call has an unknown outcome is another one."""
        lives = 0
        while not self.stopping:
            key = rng.choice(KEYS)
            self.calls += 1
            value = f"{self.calls};"
            name, arguments = rng.choice(
                [("get", (key,))] * 3
                + [("append", (key, value)), ("put", (key, value)), ("delete", (key,))]
                + [("cas", (key, rng.choice((None, value)), value))]
            )
            await self.record(replica, f"{client}.{lives}", name, *arguments)
            await asyncio.sleep(rng.random() * 0.1)

    async def record(self, replica, client, name, *arguments):
        call = self.history.call(client, (name, *arguments))
        try:
            result = await getattr(replica, name)(*arguments)
        except WormError:
            self.unknown += 1
            if name == "get":
                self.history.forget(call)
            return
        self.answered += 1
        self.history.ret(call, "ok" if result is None and name != "get" else result)

    # ------------------------------------------------------------ the end

    async def settle(self):
        """After the faults: every replica answers, and all come to the same position."""
        world = self.world
        for name in self.names:
            if not world.host(name).alive:
                self.start_replica(name)
        until = world.now + RECOVERY_S
        self.stopping = True
        for name in self.names:
            while True:
                replica = self.replicas.get(name)
                try:
                    if replica is not None:
                        await self._ask(name, replica)
                        break
                except WormError as e:
                    if world.now > until:
                        raise AssertionError(f"{name} does not answer: {e}") from e
                if world.now > until:
                    raise AssertionError(f"{name} does not come up")
                await asyncio.sleep(0.1)
        until = world.now + SETTLING_S
        while len({r.status().applied for r in self.replicas.values()}) > 1:
            if world.now > until:
                stuck = {n: r.status().applied for n, r in self.replicas.items()}
                raise AssertionError(f"replicas do not come together: {stuck}")
            await asyncio.sleep(0.1)
        for name, replica in self.replicas.items():
            assert replica.status().failed == "", f"{name}: {replica.status().failed}"

    async def _ask(self, name, replica):
        """From within the replica's process: a linearizable read of every key, recorded."""

        async def ask():
            for key in KEYS:
                await self.record(replica, f"{name}.last", "get", key)
            await replica.get("a")

        await self.world.spawn(name, ask, name="ask", may_fail=True).wait()

    def check(self, model=None):
        verdict = check(model or KeyValueStore(), self.history.operations(), budget=5_000_000)
        assert verdict.outcome is not Outcome.VIOLATION, verdict.explanation
        return verdict


def campaign_world(seed):
    """A world with limits and clocks that are drawn from its seed."""
    return World(seed, knobs=World.drawn_knobs(seed), drift=LEASE_DRIFT)


def run_faulty(seed, *, machine=Cells, options=None, kinds=(), duration_s=8.0, replicas=3, size=16):
    """One run under faults of servers and replicas; returns the group for more checks."""
    logging.getLogger("wormspace").setLevel(logging.CRITICAL)
    with campaign_world(seed) as world, Witness() as witness:
        real = World.draws_real_store(seed)
        group = Group(
            world, machine, options=options, replicas=replicas, size=size, real_store=real
        )
        rng = world.random_for("faulty")
        plan = FaultPlan(
            kinds=kinds or ("cut", "cut one way", "isolate", "reset", "slow", "pause", "crash"),
            every_s=(0.1, 1.0),
            lasting_s=(0.05, 1.5),
            max_hurt=1,
        )
        servers = FaultSchedule(world, plan, group.servers, group.names)

        async def kill():
            while not group.stopping:
                await asyncio.sleep(rng.uniform(0.5, 3.0))
                name = rng.choice(group.names)
                process = world.host(name).processes[-1]
                if group.stopping or process.state is not State.RUNNING:
                    continue
                what = rng.choice(("crash", "pause", "cut", "cut"))
                lasting = rng.uniform(0.1, 2.5)
                if what == "crash":
                    process.crash()
                    group.replicas.pop(name, None)
                    world.after(lasting, process.restart)
                elif what == "pause":
                    process.pause()
                    world.after(lasting, process.resume)
                else:
                    cut = world.network.cut([name])
                    world.after(lasting, lambda cut=cut: world.network.heal(cut))

        async def drive():
            group.start_servers()
            group.start_replicas(group.work)
            servers.start()
            killer = asyncio.ensure_future(kill())
            await asyncio.sleep(duration_s)
            servers.stop()
            killer.cancel()
            await asyncio.sleep(3.0)  # what was killed comes back
            await group.settle()

        world.run(drive(), deadline_s=300)
        witness.check()
        group.verdict = group.check()
        group.positions = len(witness.states)
        return group
