"""A world: one clock, one network, hosts with disks, processes on them, and a seed for everything.

A process is whatever a coroutine started on a host and all that came of it: tasks, timers, sockets.
Whose a piece of work is, is found in the context it was made in. A crash is the end of a process in
the middle of what it does: nothing of it runs any more, not even `finally`, its sockets go, and
its host's disk keeps what was committed. A run that fails carries its seed and its last events.

    with World(seed=7) as world:
        world.spawn("s1", server_main)
        world.run(driver())

The driver, and whatever else belongs to no process, cannot be hurt and has no host.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack
from random import Random
from typing import Any, TypeVar

from wormspace.knobs import differing, drawn, turned
from wormspace.sim._handles import OWNER, Owner, Stuck
from wormspace.sim._loop import SimLoop
from wormspace.sim._wire import ROOT
from wormspace.sim.disk import Disk, DiskOptions
from wormspace.sim.network import Network
from wormspace.sim.network_options import NetworkOptions
from wormspace.sim.trace import Plain, Trace

_T = TypeVar("_T")

LEASE_DRIFT = 0.0045
"""Monotonic clocks that differ by less than a hundredth, as leases assume."""

_REPORTED_EVENTS = 60
_MAX_SILENCE_S = 2.0


class ProcessKilled(Exception):
    """The process waited for was killed."""


class DeadlineExceeded(Stuck):
    """The run did not end within the virtual time it was given."""


class State(enum.Enum):
    """What has become of a process."""

    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    CRASHED = "crashed"


class Process(Owner):
    """A coroutine on a host, and all that came of it."""

    __slots__ = ("_done", "_main", "factory", "may_fail", "state", "world")

    def __init__(
        self,
        world: World,
        host: str,
        name: str,
        factory: Callable[[], Awaitable[Any]],
        may_fail: bool,
    ) -> None:
        super().__init__(host, name, world.host(host).rate)
        self.world = world
        self.factory = factory
        self.may_fail = may_fail
        self.state = State.RUNNING
        self._done: asyncio.Future[Any] = world.loop.create_future()
        context = contextvars.copy_context()
        context.run(OWNER.set, self)
        self._main = world.loop.create_task(self._run(), name=f"{host}/{name}", context=context)

    async def _run(self) -> None:
        error: BaseException | None = None
        result = None
        try:
            result = await self.factory()
        except asyncio.CancelledError:
            pass  # `stop`: as a process does on SIGTERM
        except Exception as failure:  # noqa: BLE001 (reported below)
            error = failure
        self._end(State.EXITED, silence_s=0.0, clean=True)
        if error is None:
            self._done.set_result(result)
            return
        self._fail_done(error)
        if not self.may_fail:
            message = f"process {self.name} on {self.host} failed"
            self.world.loop.call_exception_handler({"message": message, "exception": error})

    @property
    def alive(self) -> bool:
        """Whether it has neither exited nor crashed."""
        return self.state in (State.RUNNING, State.PAUSED)

    def crash(self, *, silence_s: float | None = None) -> None:
        """Kill it. Its peers see resets, or silence for so long first (default: by seed)."""
        if not self.alive:
            return
        if silence_s is None:
            random = self.world.crash_random
            silence_s = 0.0 if random.random() < 0.5 else random.uniform(0.0, _MAX_SILENCE_S)
        self._end(State.CRASHED, silence_s=silence_s, clean=False)
        self._fail_done(ProcessKilled(f"{self.name} on {self.host} was killed"))

    def stop(self) -> None:
        """Ask it to end, as SIGTERM does: its main coroutine is cancelled."""
        self._main.cancel()

    def pause(self) -> None:
        """Freeze it, as SIGSTOP does; its host's kernel goes on taking what arrives."""
        if self.state is State.RUNNING:
            self._become(State.PAUSED)

    def resume(self) -> None:
        """Let it go on with everything that came due meanwhile."""
        if self.state is State.PAUSED:
            self._become(State.RUNNING)
            parked, self.parked = self.parked, []
            self.world.loop.requeue(parked)

    def restart(self) -> Process:
        """Start it anew, on its host, from its first line. Kills it if it lives."""
        self.crash()
        return self.world.spawn(self.host, self.factory, name=self.name, may_fail=self.may_fail)

    async def wait(self) -> Any:
        """Its result. Raises what it raised, or ProcessKilled."""
        return await asyncio.shield(self._done)

    def _become(self, state: State) -> None:
        self.state = state
        self.running = state is State.RUNNING
        self.world.note(self.host, "%s %s", self.name, state.value)

    def _end(self, state: State, *, silence_s: float, clean: bool) -> None:
        self._become(state)
        for resource in list(self.resources):
            resource.vanish(silence_s=silence_s, clean=clean)
        self.resources.clear()

    def _fail_done(self, error: BaseException) -> None:
        self._done.set_exception(error)
        self._done.exception()  # seen: nobody need wait for a process


class Host:
    """A machine: processes, disks, an address. Use `World.host`.

    rate: how fast its monotonic clock runs.
    """

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.rate = 1.0 + world.random_for(f"rate/{name}").uniform(-world.drift, world.drift)
        self.up = True
        self.processes: list[Process] = []
        self._world = world
        self._disks: dict[str, Disk] = {}
        self._clock = (0.0, 0.0, 1.0)

    def set_clock(self, error_s: float, rate: float) -> None:
        """Let its wall clock be wrong by so much from now on, and run so fast."""
        now = self._world.now
        self._clock = (now, now + error_s, rate)
        self._world.note(self.name, "the clock jumps to %f, and runs at %f", now + error_s, rate)

    def clock(self) -> float:
        """Its wall clock, in seconds; timers go by another one, that never jumps."""
        since, told, rate = self._clock
        return told + (self._world.now - since) * rate

    def disk(self, name: str = "data") -> Disk:
        """The disk (or data directory) of this name; made empty when first asked for."""
        disk = self._disks.get(name)
        if disk is None:
            world = self._world
            disk = self._disks[name] = Disk(
                world.loop,
                world.random_for(f"disk/{self.name}/{name}"),
                world.disk_options,
                lambda text: world.note(self.name, text),
            )
        return disk

    @property
    def disks(self) -> list[Disk]:
        """All its disks."""
        return list(self._disks.values())

    @property
    def alive(self) -> list[Process]:
        """Its processes that have neither exited nor crashed."""
        return [process for process in self.processes if process.alive]

    @property
    def down(self) -> list[Process]:
        """Its processes whose last life ended in a crash."""
        last = {process.name: process for process in self.processes}
        return [process for process in last.values() if process.state is State.CRASHED]

    def crash(self) -> None:
        """Cut its power: processes die, disks lose what was not synced, nothing answers."""
        self.up = False
        self._world.note(self.name, "host down")
        self._world.network.take_down(self.name)
        for process in self.alive:
            process.crash(silence_s=self._world.network.draw_stall_timeout())
        for disk in self._disks.values():
            disk.crash()

    def boot(self) -> None:
        """Bring it up; it has no processes until some are spawned (which boots it, too)."""
        if not self.up:
            self.up = True
            self._world.note(self.name, "host up")
            self._world.network.bring_up(self.name)


class World:
    """Everything of one simulated run.

    seed: fixes the run, together with what is run. max_steps: as SimLoop's.
    knobs: the values that are in force until the world is closed (default: those that ship).
    drift: by so much, at most, is each machine's monotonic clock too fast or too slow.
    """

    def __init__(
        self,
        seed: int,
        *,
        network: NetworkOptions | None = None,
        disk: DiskOptions | None = None,
        executor_delay_s: float = 0.0005,
        max_steps: int = 100_000_000,
        trace_capacity: int = 2000,
        knobs: Mapping[str, int] | None = None,
        drift: float = 0.0,
    ) -> None:
        self.seed = seed
        self.drift = drift
        self.random = self.random_for("world")
        self.crash_random = self.random_for("crash")
        self.trace = Trace(trace_capacity)
        self.loop = SimLoop(  # type: ignore[abstract]  # what it leaves out, it refuses
            max_steps=max_steps, executor_delay_s=executor_delay_s
        )
        self.network = Network(self.loop, self.random_for("network"), self.trace, network)
        self.loop.network = self.network
        self.disk_options = disk or DiskOptions()
        self._hosts: dict[str, Host] = {}
        self._at_end = ExitStack()
        self._at_end.enter_context(turned(**(knobs or {})))

    @classmethod
    def counting_delays(cls, seed: int = 0) -> World:
        """A world in which each message takes 1.0 and all else nothing: time counts delays."""
        return cls(
            seed,
            network=NetworkOptions.unit_delay(),
            disk=DiskOptions.instant(),
            executor_delay_s=0.0,
        )

    def random_for(self, name: str) -> Random:
        """A generator of its own for this purpose: others' draws do not change what it gives."""
        return self.random_of(self.seed, name)

    @staticmethod
    def random_of(seed: int, name: str) -> Random:
        """The generator that a world of this seed has for this purpose."""
        return Random(f"{seed}/{name}")

    @classmethod
    def drawn_knobs(cls, seed: int) -> dict[str, int]:
        """The values of all knobs that belong to this seed, from the least to what ships."""
        return drawn(cls.random_of(seed, "knobs"))

    @classmethod
    def draws_real_store(cls, seed: int) -> bool:
        """Whether servers have the real store in a world of this seed (see `serving`)."""
        return cls.random_of(seed, "store").random() < 0.3

    @property
    def now(self) -> float:
        """The virtual time, in seconds."""
        return self.loop.now

    def host(self, name: str) -> Host:
        """The host of this name."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(self, name)
        return host

    def spawn(
        self,
        host: str,
        factory: Callable[[], Awaitable[Any]],
        *,
        name: str = "main",
        may_fail: bool = False,
    ) -> Process:
        """Start a process on a host. Its failure fails the run, unless it `may_fail`."""
        home = self.host(host)
        home.boot()
        self.note(host, "starts %s", name)
        process = Process(self, host, name, factory, may_fail)
        home.processes.append(process)
        return process

    def after(self, delay_s: float, action: Callable[[], object]) -> asyncio.TimerHandle:
        """Do something to the world later, on behalf of no process."""
        return self.loop.call_later(delay_s, action, context=ROOT)

    def run(self, driver: Coroutine[Any, Any, _T], *, deadline_s: float | None = None) -> _T:
        """Run until the driver returns.

        Raises:
            Stuck: no progress is possible, or not within `deadline_s` of virtual time.
            Unhandled: something failed that nobody looked at.
        """
        timer = None
        if deadline_s is not None:
            timer = self.after(
                deadline_s,
                lambda: self.loop.fail(DeadlineExceeded(f"not done after {deadline_s} s")),
            )
        try:
            result: _T = self.loop.run_until_complete(driver)
        except Exception as error:
            error.add_note(self.report())
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return result

    def note(self, host: str, text: str, *args: Plain) -> None:
        """Record an event; `text % args` are its words."""
        self.trace.add(self.loop.now, host, text, *args)

    def digest(self) -> str:
        """A hash of the whole history: every event, the number of steps, the time."""
        history = f"{self.trace.digest()} {self.loop.steps} {self.now!r}"
        return hashlib.blake2b(history.encode(), digest_size=16).hexdigest()

    def report(self) -> str:
        """The seed, the time, the knobs that are turned and the last events, for people."""
        knobs = ", ".join(f"{name}={value}" for name, value in differing().items())
        return (
            f"seed {self.seed}, {self.now:.6f} s, {self.loop.steps} steps; "
            f"knobs: {knobs or 'as shipped'}; last events:\n"
            + self.trace.transcript(_REPORTED_EVENTS)
        )

    def close(self) -> None:
        """End the world, in silence: nothing of it runs any more."""
        self.loop.close()
        for host in self._hosts.values():
            for disk in host.disks:
                if disk.files is not None:
                    disk.files.remove()
        self._at_end.close()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def current() -> Process:
    """The process this code runs in. RuntimeError in code that belongs to none."""
    owner = OWNER.get()
    if not isinstance(owner, Process):
        raise RuntimeError("this code belongs to no simulated process")
    return owner
