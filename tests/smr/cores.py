"""A replica's core alone: who leads, the other replicas and the network are made up."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from virtual import virtually
from wormspace.smr import StateMachine, Tuning, command, query
from wormspace.smr import core as core_module
from wormspace.smr.calls import encode_calls
from wormspace.smr.core import Settings, listening
from wormspace.smr.records import Batch, Member, Packet, encode
from wormspace.space import Address

SIZE = 8
TIMEOUT_S = 5.0
OTHER = Member("r2", b"other id", "there", 2)
THIRD = Member("r3", b"third id", "there", 3)


class Notes(StateMachine):
    seen: list[int] = []  # noqa: RUF012

    @command
    def note(self, n: int) -> int:
        self.seen.append(n)
        return len(self.seen)

    @query
    def count(self, least: int) -> int:
        return max(least, len(self.seen))


METHODS = Notes.declaration.methods


class Puppet:
    """A way to lead, and a way to keep what must be kept, that do what a test says."""

    strategy = "puppet"

    def __init__(self):
        self.leads, self.leader, self.store = True, None, None
        self.offered, self.ran, self.latest = [], [], Address(0, 0)
        self.going_on = asyncio.Event()
        self.trouble = None

    def make_proposer(self, context):
        self.context = context
        return self

    async def run(self, *given):
        self.ran.append(given)
        await self.going_on.wait()
        if self.trouble is not None:
            raise self.trouble

    def offer(self, packet):
        self.offered.append(packet)

    async def confirm(self):
        return self.latest

    def age(self):
        return 0.0


class NoService:
    """Nobody can call; notes what is asked of it."""

    made: list[NoService] = []  # noqa: RUF012

    def __init__(self, handlers):
        NoService.made.append(self)
        self.handlers, self.at, self.stopped = handlers, None, 0

    async def start(self, host, port):
        if port == 13:
            raise OSError("in use")
        self.at = (host, port)
        return port or 4242

    async def stop(self):
        self.stopped += 1


@pytest.fixture(autouse=True)
def nobody_calls(monkeypatch):
    monkeypatch.setattr(core_module, "Service", NoService)
    monkeypatch.setattr(NoService, "made", [])


async def made(worm, name="thing", port=0, **given):
    puppet = Puppet()
    options = {"replica": "r1", "host": "here", "timeout_s": TIMEOUT_S, "clock": lambda: 50.0}
    options |= {"rng": random.Random(7), "leadership": puppet, "durability": puppet}
    options |= {"tuning": Tuning(segment_size=SIZE, upgrade_s=0.0), **given}
    core = await listening(Notes, worm.space(name), port, Settings(**options))
    return core, puppet


async def begun(worm, **given):
    """One that takes part, and knows its first segment."""
    core, puppet = await made(worm, **given)
    await core.start()
    await core.learner.space.alloc(core.context.segment_metadata(), SIZE)
    segment = await core.learner.space.segment(0)
    core.learner.allocated(0, SIZE, segment.metadata)
    await asyncio.sleep(0)
    return core, puppet


def packet(number, *numbers, client=b"client 1"):
    raw = encode_calls([METHODS["note"]] * len(numbers), [(n,) for n in numbers])
    return Packet(client, number, 1, raw)


def learn(core, offset, *packets, **named):
    core.learner.learn(Address(0, offset), encode(Batch(10**9, 7, list(packets), **named)))


def on(work):
    """Run it with an embedded client, in virtual time."""

    def test(caplog):
        caplog.set_level(logging.INFO, "wormspace.smr")
        caplog.clear()
        virtually(lambda worm: work(worm, caplog))

    test.__name__ = work.__name__
    return test
