"""One replica's context without its service: a state machine, a learner and a space."""

from __future__ import annotations

import asyncio
import random

from wormspace.smr import StateMachine, Tuning, command
from wormspace.smr.calls import encode_calls
from wormspace.smr.engine import Engine
from wormspace.smr.learner import Learner
from wormspace.smr.records import Member, Packet
from wormspace.smr.replica_context import ReplicaContext

SIZE = 8
PIPELINE = 3


class Notes(StateMachine):
    seen: list[int] = []  # noqa: RUF012
    until: float | None = None

    @command
    def note(self, n: int) -> None:
        self.seen.append(n)

    def due(self) -> float | None:
        return self.until

    def on_due(self) -> None:
        self.until = None
        self.seen.append(-1)


def packet(number, client=b"c"):
    raw = encode_calls([Notes.declaration.methods["note"]], [(number,)])
    return Packet(client, number, 1, raw)


class Place:
    """A context, and what its learner says.

    Attributes:
        registers: of each that was applied, the numbers of the packets in it.
        failed: why the learner cannot go on.
    """

    def __init__(self, worm, name="r1", strategy="sticky", **tuning):
        self.space, self.failed, self.registers = worm.space("thing"), [], []
        self.learner = Learner(
            self.space, Engine(Notes()), strategy, self._note, lambda: None, self.failed.append
        )
        options = {"segment_size": SIZE, "pipeline": PIPELINE, "audit_s": 0.0, **tuning}
        self.context = ReplicaContext(
            "smr/thing",
            self.space,
            Member(name, name.encode(), "host", 1),
            self.learner,
            asyncio.get_running_loop().time,
            random.Random(name),
            Tuning(**options),
        )

    def _note(self, applied, batch):
        self.registers.append([one.number for one in applied])
        for one in applied:
            self.context.waiting.pop((one.client, one.number), None)

    @property
    def seen(self):
        return list(self.learner.engine.machine.seen)

    async def rest(self):
        """Let happen what can, without much time."""
        await asyncio.sleep(0.001)
