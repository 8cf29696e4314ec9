"""A fault schedule: what goes wrong, where and for how long, drawn from the world's seed.

Every fault is a pair: how it begins and how it ends. `stop` ends all that are under way, so that a
run can go on to require progress. Faults of different kinds overlap freely on a host, unless
`max_hurt` bounds how many servers may be hurt (down, frozen, cut off, or without a working disk) at
one time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from wormspace.sim.world import Host, Process, World

End = Callable[[], object]


@dataclass(frozen=True)
class FaultPlan:
    """Which kinds of faults (see KINDS), how often and how long: (least, most) seconds."""

    kinds: tuple[str, ...] = ()
    every_s: tuple[float, float] = (0.05, 1.0)
    lasting_s: tuple[float, float] = (0.05, 2.0)
    max_hurt: int | None = None


class FaultSchedule:
    """Injects faults from `start` to `stop`; `counts` says how many of which kind."""

    def __init__(
        self, world: World, plan: FaultPlan, servers: Sequence[str], clients: Sequence[str] = ()
    ) -> None:
        self.counts: dict[str, int] = {}
        self._world = world
        self._plan = plan
        self._servers = list(servers)
        self._clients = list(clients)
        self._random = world.random_for("faults")
        self._kinds = plan.kinds or tuple(KINDS)
        self._next: asyncio.TimerHandle | None = None
        self._under_way: dict[tuple[str, str], tuple[asyncio.TimerHandle, End]] = {}

    def start(self) -> None:
        """Begin to inject."""
        delay_s = self._random.uniform(*self._plan.every_s)
        self._next = self._world.after(delay_s, self._on_turn)

    def stop(self) -> None:
        """Inject nothing more, and end what is under way."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        for fault in list(self._under_way):
            self._under_way[fault][0].cancel()
            self._end(fault)

    def _on_turn(self) -> None:
        self.inject(self._random.choice(self._kinds))
        self.start()

    def inject(self, kind: str) -> None:
        """Inject one fault of this kind now, unless too many servers are hurt already."""
        begin, hurts = KINDS[kind]
        host = self._random.choice(self._servers)
        lasting_s = self._random.uniform(*self._plan.lasting_s)
        fault = kind, host
        if fault in self._under_way or (hurts and self._too_many_with(host)):
            return
        end = begin(self, host)
        if end is None:
            return
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._world.note(host, "fault: %s for %.3f s", kind, lasting_s)
        self._under_way[fault] = self._world.after(lasting_s, lambda: self._end(fault)), end

    def _too_many_with(self, host: str) -> bool:
        hurt = {other for kind, other in self._under_way if KINDS[kind][1]}
        return self._plan.max_hurt is not None and len(hurt | {host}) > self._plan.max_hurt

    def _end(self, fault: tuple[str, str]) -> None:
        _, end = self._under_way.pop(fault)
        end()

    # -- the kinds: each begins a fault and returns what ends it, or None if it cannot be now ------

    def _cut(self, host: str, *, one_way: bool) -> End:
        everyone = self._servers + self._clients
        everyone.remove(host)
        others = self._random.sample(everyone, self._random.randint(1, len(everyone)))
        network = self._world.network
        pair = ([host], others) if self._random.random() < 0.5 else (others, [host])
        cut = network.cut(*pair, one_way=one_way)
        return lambda: network.heal(cut)

    def cut_some(self, host: str) -> End:
        """Cut a server off from some others."""
        return self._cut(host, one_way=False)

    def cut_one_way(self, host: str) -> End:
        """Cut one direction between a server and some others."""
        return self._cut(host, one_way=True)

    def strand(self, host: str) -> End:
        """Cut somebody off from a majority of the servers, and let both sides notice at once."""
        client = self._random.choice(self._clients or self._servers)
        others = [server for server in self._servers if server != client]
        lost = self._random.sample(others, min(len(others), len(self._servers) // 2 + 1))
        network = self._world.network
        cut = network.cut([client], lost)
        for server in lost:
            network.reset(client, server)
        return lambda: network.heal(cut)

    def set_clock(self, host: str) -> End:
        """Let a clock jump, and go wrong by up to a tenth; both stay, or are put right again."""
        random = self._random
        machine = self._world.host(random.choice(self._servers + self._clients))
        size_s = random.choice((0.1, 10.0, 4000.0, 1e6))
        machine.set_clock(random.uniform(-size_s, size_s), random.uniform(0.9, 1.1))
        if random.random() < 0.5:
            return lambda: None
        return lambda: machine.set_clock(0.0, 1.0)

    def isolate(self, host: str) -> End:
        """Cut a server off from everybody."""
        cut = self._world.network.cut([host])
        return lambda: self._world.network.heal(cut)

    def reset(self, host: str) -> End:
        """Reset a server's connections."""
        self._world.network.reset(host)
        return lambda: None

    def slow(self, host: str) -> End:
        """Make a server's links slow."""
        network = self._world.network
        network.slow(host, self._random.uniform(2.0, 50.0))
        return lambda: network.slow(host, 1.0)

    def pause(self, host: str) -> End | None:
        """Freeze a server."""
        alive = self._world.host(host).alive
        if not alive:
            return None
        for process in alive:
            process.pause()

        def end() -> None:
            for process in alive:
                process.resume()

        return end

    def crash(self, host: str) -> End | None:
        """Kill a server; it is restarted."""
        alive = self._world.host(host).alive
        if not alive:
            return None
        for process in alive:
            process.crash()
        return lambda: self._restart(host, alive)

    def _restart(self, host: str, were_alive: list[Process]) -> None:
        """Restart those of these processes that are down, though they may have lived again."""
        names = {process.name for process in were_alive}
        for process in self._world.host(host).down:
            if process.name in names:
                process.restart()

    def crash_again(self, host: str) -> End | None:
        """Kill a server, and again while it recovers, and once more soon after."""
        alive = self._world.host(host).alive
        end = self.crash(host)
        if end is None:
            return None
        world, random = self._world, self._random
        delay_s = 0.0
        for _ in range(random.randint(1, 3)):
            delay_s += random.choice((0.0, 0.001, 0.01, 0.1)) * random.random()
            power = random.random() < 0.5
            world.after(delay_s, partial(self._relapse, host, alive, power))
        return end

    def crash_at_work(self, host: str) -> End | None:
        """Kill a server in the midst of a commit; cut its power soon after it is back."""
        machine = self._world.host(host)
        alive, disks = machine.alive, machine.disks
        if not alive or not disks:
            return None
        disk = self._random.choice(disks)
        after, random = self._world.after, self._random

        def kill() -> None:
            for process in machine.alive:
                process.crash()
            back_s = random.random() * 0.02
            after(back_s, partial(self._restart, host, alive))
            after(back_s + random.random() * random.choice((0.02, 0.2)), cut_power)

        def cut_power() -> None:
            if ("crash at work", host) in self._under_way:
                machine.crash()

        def end() -> None:
            disk.at_work = None
            self._restart(host, alive)

        def strike() -> None:
            after(random.random() * 0.01, kill)

        disk.at_work = strike
        return end

    def _relapse(self, host: str, were_alive: list[Process], power: bool) -> None:
        """Restart processes that are down, and let them fail again a moment later."""
        machine = self._world.host(host)
        if not machine.down:
            return  # the fault is over
        self._restart(host, were_alive)
        delay_s = self._random.random() * self._random.choice((0.005, 0.05, 0.3))
        self._world.after(delay_s, partial(self._fail, machine, power))

    def _fail(self, machine: Host, power: bool) -> None:
        if ("crash again", machine.name) not in self._under_way:
            return
        if power:
            machine.crash()
        for process in machine.alive:
            process.crash()

    def crash_host(self, host: str) -> End | None:
        """Cut a server's power; it boots and the server is restarted."""
        alive = self._world.host(host).alive
        if not alive:
            return None
        self._world.host(host).crash()
        return lambda: self._restart(host, alive)

    def slow_disk(self, host: str) -> End:
        """Make commits take much longer."""
        return self._hurt_disks(host, "slowness", self._random.uniform(10.0, 200.0), 1.0)

    def _hurt_disks(self, host: str, what: str, hurt: float, well: float) -> End:
        """Set an attribute of a server's disks while the fault lasts."""
        disks = self._world.host(host).disks
        for disk in disks:
            setattr(disk, what, hurt)

        def end() -> None:
            for disk in disks:
                setattr(disk, what, well)

        return end

    def stall_disk(self, host: str) -> End:
        """Let commits hang."""
        disks = self._world.host(host).disks
        for disk in disks:
            disk.stall(True)

        def end() -> None:
            for disk in disks:
                disk.stall(False)

        return end

    def fill_disk(self, host: str) -> End:
        """Leave no room on the disk."""
        return self._hurt_disks(host, "full", True, False)


KINDS: dict[str, tuple[Callable[[FaultSchedule, str], End | None], bool]] = {
    "cut": (FaultSchedule.cut_some, True),
    "cut one way": (FaultSchedule.cut_one_way, True),
    "strand": (FaultSchedule.strand, False),
    "isolate": (FaultSchedule.isolate, True),
    "reset": (FaultSchedule.reset, False),
    "slow": (FaultSchedule.slow, False),
    "pause": (FaultSchedule.pause, True),
    "crash": (FaultSchedule.crash, True),
    "crash again": (FaultSchedule.crash_again, True),
    "crash at work": (FaultSchedule.crash_at_work, True),
    "crash host": (FaultSchedule.crash_host, True),
    "slow disk": (FaultSchedule.slow_disk, False),
    "stall disk": (FaultSchedule.stall_disk, True),
    "fill disk": (FaultSchedule.fill_disk, True),
    "clock": (FaultSchedule.set_clock, False),
}
"""Each kind of fault: how it begins, and whether the server is hurt while it lasts."""
