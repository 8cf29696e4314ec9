"""One run: a cluster, clients, faults, healing, and the claims.  And what became of it.

A run has four parts.  First everybody works while faults strike.  Then all faults end, and the
clients must get through: whatever they call is answered within a bounded virtual time (a liveness
failure otherwise), and every listener hears what it has not heard.  Then somebody begins anew while
nothing fails (`newcomers`).  Then the claims are checked on what the clients saw (`checks`) and on
what the disks hold (`storage`).

The seed chooses all: the shape of the world, who calls what when, every fault, every delay.
"""

from __future__ import annotations

import asyncio
import enum
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from wormspace.errors import ProtocolViolation, Unavailable
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.sim._handles import Stuck
from wormspace.sim.checks import check_order, check_records, missing, trims_missing, values_of
from wormspace.sim.disk import DiskOptions
from wormspace.sim.faults import FaultPlan, FaultSchedule
from wormspace.sim.latency import skewed, uniform
from wormspace.sim.mix import Mix
from wormspace.sim.network_options import Loss, NetworkOptions
from wormspace.sim.newcomers import Newcomers
from wormspace.sim.protocol import ProtocolCheck
from wormspace.sim.records import Feed, Records, Violation
from wormspace.sim.serving import PORT, serving
from wormspace.sim.storage import StorageWatch
from wormspace.sim.wiretap import Wiretap
from wormspace.sim.workload import Person, Workload
from wormspace.sim.world import LEASE_DRIFT, State, World

_E = TypeVar("_E", bound=Exception)

RECOVERY_S = 30.0
"""Virtual seconds within which everything must work again once the faults have ended.

A connection whose other end died in silence is given up after 15 s, and reconnecting backs off to a
second."""
HEARING_S = 15.0
"""Virtual seconds within which a listener must have heard of everything after that."""
OVERTIME_S = 120.0


class Result(enum.Enum):
    """What became of a run; the value is the exit code of `wormspace sim`."""

    RIGHT = 0
    WRONG = 10
    STUCK = 11
    CRASHED = 12


@dataclass(frozen=True)
class Shape:
    """The shape of a run: who there is, and how bad it gets.

    lossy: whether single frames are lost, repeated and reordered on connections that stay up.
        That is more than TCP allows and the protocol must bear it, but a listener relies on its
        stream: with it, listeners may miss events and are only checked for what they are told.
    calm: whether no stream to a listener is ever cut, nor given up as too slow; so that the order
        in which it is told of writes is checked, too.
    knobs: the values of knobs; None: all as shipped.
    real_store: whether the servers have the real store, on simulated files, or the simulated one,
        which is quicker, and in which every commit is looked at.
    rot: whether what was synced is damaged, on a minority of the servers.
    errors: whether calls of the system that the real store makes fail, on any server: it must go on
        as if nothing had been asked of it, or end; started again, it has all that it acknowledged.
    drift: by so much, at most, do monotonic clocks run wrong.
    limits: of the servers.
    """

    servers: int = 3
    partitions: int = 1
    clients: int = 4
    workers: int = 3
    listeners: int = 2
    duration_s: float = 6.0
    lossy: bool = False
    calm: bool = False
    knobs: Mapping[str, int] | None = None
    real_store: bool = False
    rot: bool = False
    errors: bool = False
    drift: float = 0.0
    limits: Limits = field(default_factory=Limits)
    client_crash_every_s: float = 2.0
    mix: Mix = field(default_factory=Mix)
    faults: FaultPlan = field(default_factory=lambda: FaultPlan(every_s=(0.02, 0.6)))
    network: NetworkOptions = field(default_factory=NetworkOptions)
    disk: DiskOptions = field(default_factory=DiskOptions)

    @classmethod
    def draw(cls, world_seed: int) -> Shape:
        """The shape that belongs to a seed."""
        rng = World.random_of(world_seed, "shape")
        lossy = rng.random() < 0.4
        loss = Loss(drop=rng.choice((0.01, 0.05)), duplicate=rng.choice((0.02, 0.1)), delay=0.05)
        latency = uniform(0.0002, 0.001) if rng.random() < 0.6 else skewed(0.0003, 0.003)
        return cls(
            servers=rng.choice((3, 3, 3, 5)),
            partitions=rng.choice((1, 1, 2)),
            clients=rng.choice((3, 4, 5)),
            listeners=rng.choice((0, 1, 2)),
            lossy=lossy,
            knobs=World.drawn_knobs(world_seed),
            real_store=(real_store := rng.random() < 0.3),
            rot=real_store and rng.random() < 0.4,
            errors=real_store and World.random_of(world_seed, "errors").random() < 0.5,
            drift=World.random_of(world_seed, "drift").choice((0.0, LEASE_DRIFT, 0.2)),
            limits=_draw_limits(World.random_of(world_seed, "limits")),
            client_crash_every_s=rng.choice((1.0, 3.0, 1000.0)),
            mix=Mix(
                calls=_draw_calls(rng),
                segments=rng.choice((1, 2, 4)),
                size=rng.choice((4, 12, 30)),
                given_up=World.random_of(world_seed, "whims").choice((0.0, 0.0, 0.0, 0.1)),
            ),
            faults=FaultPlan(
                every_s=(0.02, rng.choice((0.3, 1.0))),
                lasting_s=(0.02, rng.choice((0.5, 2.0))),
                max_hurt=rng.choice((1, 2, None)),
            ),
            disk=DiskOptions(commit_s=skewed(0.0003, rng.choice((0.0003, 0.0003, 0.005)))),
            network=NetworkOptions(
                latency=latency,
                framed=lossy,
                loss=loss if lossy else None,
                split=0.05,
            ),
        )


def _draw_calls(rng: Random) -> dict[str, int]:
    """How often each call is made: in each run some are made all the time, and some never."""
    calls = Mix().calls
    return {name: weight * rng.choice((0, 1, 1, 1, 5)) for name, weight in calls.items()} | {
        "write": calls["write"],
        "read": calls["read"],
    }


def _draw_limits(rng: Random) -> Limits:
    """As shipped, or so low that a server pauses and gives up clients for what is no load."""
    return Limits(
        max_unsent=rng.choice((Limits().max_unsent, 20_000, 400)),
        max_backlog=rng.choice((Limits().max_backlog, Limits().max_backlog, 2_000)),
    )


@dataclass
class Report:
    """What became of one run.

    steps: turns of the event loop; story: for people, on failure.
    """

    seed: int
    result: Result
    operations: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    virtual_s: float = 0.0
    digest: str = ""
    claim: str = ""
    story: str = ""


class Stalled(Stuck):
    """The faults are over, and yet something does not work."""


class Run:
    """The making of one run."""

    def __init__(self, seed: int, shape: Shape) -> None:
        self.shape = shape
        self.world = World(
            seed, network=shape.network, disk=shape.disk, knobs=shape.knobs, drift=shape.drift
        )
        self.records = Records()
        self.watches: list[StorageWatch] = []
        self.replica_sets = [
            [f"s{p * shape.servers + i + 1}" for i in range(shape.servers)]
            for p in range(shape.partitions)
        ]
        servers = [name for names in self.replica_sets for name in names]
        addresses = [[f"{name}:{PORT}" for name in names] for names in self.replica_sets]
        self.clients = [f"c{i + 1}" for i in range(shape.clients)]
        self.work = Workload(self.world, addresses, shape.mix, self.records)
        self.faults = FaultSchedule(self.world, shape.faults, servers, self.clients)
        self._random = self.world.random_for("clients' deaths")
        self._rotting: list[str] = []
        self._errors = self.world.random_for("disks' errors")
        self._servers = servers
        self.protocol = ProtocolCheck()
        Wiretap(self.protocol).attach(self.world.network, PORT)

    def _start_servers(self) -> None:
        shape, world = self.shape, self.world
        for index, names in enumerate(self.replica_sets):
            watch = StorageWatch(shape.servers)
            self.watches.append(watch)
            for name in names:
                if not shape.real_store:
                    watch.add(name, world.host(name).disk())
                identity = ServerIdentity("cl", name, index, shape.partitions, shape.servers)
                server = serving(identity, limits=shape.limits, real_store=shape.real_store)
                world.spawn(name, server)
            if shape.rot:
                # Of these, a minority, nothing is expected but that they harm nobody.
                self._rotting += names[: (len(names) - 1) // 2]

    def _rot_later(self) -> None:
        """Now and then, something rots on a disk that was synced."""
        self.world.after(self._random.expovariate(2.0), self._rot)

    def _rot(self) -> None:
        if self._rotting and not self.work.stopping:
            self.world.host(self._random.choice(self._rotting)).disk().rot()
            self.faults.counts["rot"] = self.faults.counts.get("rot", 0) + 1
            self._rot_later()

    def _err_later(self) -> None:
        """Now and then, a call of the system fails on some disk."""
        if self.shape.errors:
            self.world.after(self._errors.expovariate(4.0), self._err)

    def _err(self) -> None:
        if self.work.stopping:
            return
        disk = self.world.host(self._errors.choice(self._servers)).disk()
        disk.err(self._errors.choice((0, 1, 2, 5, 20)))
        self.faults.counts["disk error"] = self.faults.counts.get("disk error", 0) + 1
        self._err_later()

    async def drive(self) -> None:
        """The parts of a run."""
        self._start_servers()
        for name in self.clients:
            factory = self.work.client(name, self.shape.workers, self.shape.listeners)
            self.world.spawn(name, factory)
        self.faults.start()
        self._kill_later()
        self._rot_later()
        self._err_later()
        await asyncio.sleep(self.shape.duration_s)
        self.faults.stop()
        self.world.network.loss = None
        self.work.stopping = True
        for name in self._servers:
            self.world.host(name).disk().err(None)
        self.world.note("driver", "all faults are over")
        await self._recover()
        self.check()
        self.work.ending.set()

    def check(self) -> None:
        """Every claim.

        Raises:
            Violation: one does not hold.
        """
        for watch in self.watches:
            watch.check()
        self.protocol.check()
        check_records(self.records)

    # ------------------------------------------------------------ clients die

    def _kill_later(self) -> None:
        delay_s = self._random.expovariate(1.0 / self.shape.client_crash_every_s)
        self.world.after(delay_s, self._kill)

    def _kill(self) -> None:
        if self.work.stopping:
            return
        name = self._random.choice(self.clients)
        host = self.world.host(name)
        process = host.processes[-1]
        if process.state is State.RUNNING:
            kind = "crash client" if self._random.random() < 0.7 else "pause client"
            self.faults.counts[kind] = self.faults.counts.get(kind, 0) + 1
            lasting_s = self._random.uniform(*self.shape.faults.lasting_s)
            if kind == "crash client":
                process.crash()
                self.world.after(lasting_s, process.restart)
            else:
                process.pause()
                self.world.after(lasting_s, process.resume)
        self._kill_later()

    # ------------------------------------------------------------ healing

    async def _recover(self) -> None:
        """After the faults: all calls work, all is read, all is heard.

        Raises:
            Stalled: not within the time that is allowed.
        """
        world = self.world
        until = world.now + RECOVERY_S
        while not all(self._is_idle(name) for name in self.clients):
            if world.now > until:
                busy = [name for name in self.clients if not self._is_idle(name)]
                raise Stalled(f"calls of {', '.join(busy)} do not end, {RECOVERY_S} s later")
            await asyncio.sleep(0.1)
        last = Person(self.work, "last", 1)
        await world.spawn("last", lambda: self._last_look(last, until)).wait()
        if not self.shape.lossy:
            await self._all_heard(self.records.feeds)
        await self._all_heard(await Newcomers(world, self.work, self._servers).play())
        if self.shape.calm:
            for feed in self.records.feeds:
                check_order(feed, self.records)

    def _is_idle(self, name: str) -> bool:
        person = self.work.people.get(name)
        return person is not None and person.idle

    async def _last_look(self, last: Person, until: float) -> None:
        """A client that finds all in working order, and reads everything there is."""
        await last.connect()
        for space in self.shape.mix.spaces:
            await self._insist(last, "alloc", space, until)
            for number in range(await last.tail(space)):
                while True:
                    try:
                        await last.look(space, number)
                    except Unavailable as e:
                        if self.world.now > until:
                            raise Stalled(f"segment {space}/{number} cannot be read: {e}") from e
                    else:
                        break
            for call in ("write", "read", "settle"):
                await self._insist(last, call, space, until)
        await last.worm.close()

    async def _insist(self, last: Person, call: str, space: str, until: float) -> None:
        while not await last.attempt(call, space):
            if self.world.now > until:
                raise Stalled(f"{call} in {space} is not answered {RECOVERY_S} s after the faults")

    async def _all_heard(self, feeds: list[Feed]) -> None:
        """These listeners are told everything, soon.

        Raises:
            Violation: they are not.
        """
        until = self.world.now + HEARING_S
        values = values_of(self.records)
        gone = set(self.records.gone)
        size = self.shape.mix.size
        live = set(self.records.allocated_segments()) - gone
        while True:
            lacking = [
                (feed, missing(feed, values, live), trims_missing(feed, gone, size))
                for feed in feeds
                if feed.whole
            ]
            lacking = [one for one in lacking if one[1] or one[2]]
            if not lacking:
                return
            if self.world.now > until:
                feed, events, trims = lacking[0]
                raise Violation(
                    f"listener {feed.name} of {feed.space} from {feed.first} missed something",
                    f"not told in {HEARING_S} s: {events[:5]}, trims of {trims[:5]}",
                )
            await asyncio.sleep(0.1)


def run(seed: int, shape: Shape | None = None, *, max_steps: int = 5_000_000) -> Report:
    """Make one run and say what became of it; never raises on account of the run."""
    shape = shape or Shape.draw(seed)
    making = Run(seed, shape)
    world = making.world
    world.loop.max_steps = max_steps
    report = Report(seed, Result.RIGHT)
    try:
        world.run(making.drive(), deadline_s=shape.duration_s + OVERTIME_S)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what became of the run
        _tell(report, error, world)
    network = world.network
    report.faults = {
        **making.faults.counts,
        "frames lost": network.dropped,
        "frames repeated": network.duplicated,
        "frames delayed": network.delayed,
    }
    report.operations = making.records.calls
    report.outcomes = dict(sorted(making.records.outcomes.items()))
    report.steps = world.loop.steps
    report.virtual_s = world.now
    report.digest = world.digest()
    world.close()
    return report


def _tell(report: Report, error: Exception, world: World) -> None:
    violation = _find(error, Violation)
    stuck = _find(error, Stuck)
    contradiction = _find(error, ProtocolViolation)
    if violation is not None:
        report.result, report.claim = Result.WRONG, violation.claim
        detail = violation.detail
    elif contradiction is not None:
        report.result, report.claim = Result.WRONG, f"contradiction: {contradiction}"
        detail = "the product itself met what can never be"
    elif stuck is not None:
        report.result, report.claim = Result.STUCK, str(stuck)
        detail = ""
    else:
        report.result, report.claim = Result.CRASHED, str(error) or repr(error)
        detail = "".join(traceback.format_exception(error.__cause__ or error))
    report.story = f"{report.claim}\n{detail}\n\n{world.report()}"


def _find(error: BaseException | None, kind: type[_E]) -> _E | None:
    """The error of this kind that lies behind another."""
    while error is not None:
        if isinstance(error, kind):
            return error
        if isinstance(error, BaseExceptionGroup):
            for one in error.exceptions:
                found = _find(one, kind)
                if found is not None:
                    return found
        error = error.__cause__
    return None
