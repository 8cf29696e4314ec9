"""Shapes of runs in which a kind of mistake shows soon: short, and full of what brings it about.

Each takes a seed, as `Shape.draw` does; nothing in them is made for one line.
"""

import dataclasses

from wormspace.server.limits import Limits
from wormspace.sim.campaign import Shape
from wormspace.sim.disk import DiskOptions
from wormspace.sim.faults import FaultPlan
from wormspace.sim.latency import skewed
from wormspace.sim.mix import Mix
from wormspace.sim.network_options import NetworkOptions


def on_real_stores(seed):
    """Servers that are killed, and lose their power, again and again."""
    shape = Shape.draw(seed)
    faults = FaultPlan(
        kinds=("crash at work",) * 5 + ("crash", "crash again", "crash host", "stall disk"),
        every_s=(0.01, 0.1),
        lasting_s=(0.05, 0.5),
    )
    calls = {"write": 10, "read": 30, "read_range": 10, "alloc": 1, "holds": 5}
    mix = dataclasses.replace(shape.mix, calls=calls, size=4, pause_s=0.05)
    knobs = {**shape.knobs, "store_inline_bytes": 0}
    return dataclasses.replace(
        shape,
        knobs=knobs,
        disk=DiskOptions(commit_s=skewed(0.001, 0.01)),
        real_store=True,
        errors=False,
        faults=faults,
        duration_s=3.0,
        servers=3,
        partitions=1,
        mix=mix,
    )


def rotting(seed):
    """The same, and on a minority of the servers what was synced is damaged."""
    return dataclasses.replace(on_real_stores(seed), rot=True)


def forgetful(seed):
    """Clients that remember next to nothing of what they wrote, and use their tokens again."""
    shape = Shape.draw(seed)
    knobs = {**shape.knobs, "registers_memory": 1 + seed % 2, "registers_groups": 1}
    calls = {"write": 20, "reuse": 40, "unsafe": 10, "read": 5, "alloc": 1}
    mix = dataclasses.replace(shape.mix, calls=calls, size=12)
    return dataclasses.replace(shape, knobs=knobs, mix=mix, listeners=0, duration_s=4.0)


def contended(_):
    """Everybody writes the same register, far from the servers, and many die as they do."""
    return Shape(
        clients=5,
        workers=2,
        listeners=1,
        duration_s=3.0,
        client_crash_every_s=0.15,
        mix=Mix(calls={"push": 30, "read": 2, "alloc": 1}, size=30, segments=1, spaces=("north",)),
        faults=FaultPlan(
            kinds=("cut", "cut one way", "strand"), every_s=(0.02, 0.2), lasting_s=(0.05, 0.5)
        ),
        network=NetworkOptions(latency=skewed(0.0003, 0.02)),
        disk=DiskOptions(commit_s=skewed(0.0003, 0.01)),
    )


def scattered(_):
    """Clients that die as they write, so that much is half-written; others read ranges of it."""
    return Shape(
        clients=5,
        workers=2,
        listeners=0,
        duration_s=3.0,
        client_crash_every_s=0.1,
        mix=Mix(calls={"write": 20, "unsafe": 5, "read_range": 15, "alloc": 1}, size=6),
        faults=FaultPlan(
            kinds=("cut", "cut one way", "strand"), every_s=(0.02, 0.2), lasting_s=(0.05, 0.5)
        ),
        network=NetworkOptions(latency=skewed(0.0003, 0.01)),
        disk=DiskOptions(commit_s=skewed(0.0003, 0.01)),
    )


def quiet(_):
    """Next to nothing happens before the newcomers come."""
    return Shape(clients=1, workers=1, listeners=0, duration_s=0.2)


def crowded(_):
    """Listeners are told more at a time than their servers keep for them; no stream breaks."""
    return Shape(
        workers=3,
        duration_s=1.0,
        limits=Limits(max_unsent=400),
        client_crash_every_s=1000.0,
        mix=Mix(calls={"write_range": 20, "write": 5, "alloc": 1}, size=30),
        faults=FaultPlan(kinds=("slow disk",), every_s=(0.05, 0.3), lasting_s=(0.05, 0.3)),
        disk=DiskOptions(commit_s=skewed(0.0003, 0.003)),
    )


def asked(seed):
    """Captures of parts of each other, stale tokens, and much asking whether they stand."""
    calls = {"holds": 20, "hand_over": 10, "take_over": 20, "write_range": 10, "write": 20}
    return Shape(
        workers=3,
        listeners=0,
        duration_s=2.0,
        knobs={"server_few_ranges": 1, "server_lookup": 1 + seed % 2},
        mix=Mix(calls=calls, size=12),
        faults=FaultPlan(kinds=("cut", "slow", "slow disk"), every_s=(0.02, 0.3)),
        network=NetworkOptions(latency=skewed(0.0003, 0.005)),
    )
