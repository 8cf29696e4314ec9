"""One client with a tiny memory, pages of one row and bad wires: what it may never do.

Random calls, with every size at which the client forgets or pages turned down, over wires
that lose messages and are cut.  Checked on what travels and on what is answered, not on how:

* one value per ballot and register, in all the client ever sends;
* a register never shows a second value, and no capture takes for free what is decided;
* a listener hears of every decided register, once.
"""

import asyncio
import random

import msgspec
import pytest

from wires import World as Wires
from wormspace import Written
from wormspace.addresses import METADATA
from wormspace.errors import (
    AlreadyWritten,
    ProtocolViolation,
    RaceLost,
    TokenReused,
    Unavailable,
)
from wormspace.knobs import least, turned
from wormspace.paxos import prepare
from wormspace.paxos.ballot import UNSAFE
from wormspace.paxos.messages import COMPLETE, Write
from wormspace.registers.paxos import memory
from wormspace.registers.paxos.client import PaxosRegisters
from wormspace.registers.paxos.listening import PartitionListener
from wormspace.sim import World
from wormspace.space.follow import Follower

SEGMENTS = 5
SIZE = 4
STEPS = 60
SEEDS = 20


class Campaign:
    """A client with some tokens, and what is known of the registers."""

    def __init__(self, wires: Wires, rng: random.Random) -> None:
        self.wires = wires
        self.rng = rng
        self.client = wires.client(timeout=2.0)
        self.space = self.client.space("s")
        self.tokens: list = []
        self.known: dict[tuple[int, int], bytes] = {}
        self.outcomes: dict[str, int] = {}
        self.heard: list = []

    async def prepare(self) -> None:
        self.segments = [await self.space.alloc(size=SIZE) for _ in range(SEGMENTS)]
        self.unsafe = await self.client.space("unsafe").alloc(size=1)
        self.ear = self.wires.client(timeout=2.0)
        self.listening = asyncio.ensure_future(self.listen())

    async def listen(self) -> None:
        async for event in self.ear.space("s").listen():
            if isinstance(event, Written):
                self.heard.append((tuple(event.address), event.value))

    def spoil(self) -> None:
        """Cut wires, and let others lose messages."""
        for wires, risk in ((self.client.wires, 0.05), (self.ear.wires, 0.25)):
            for wire in wires:
                if wire.up and self.rng.random() < risk:
                    wire.cut()
                elif not wire.up and self.rng.random() < 0.5:
                    wire.mend()
        for wire in self.client.wires:
            rate = self.rng.choice([0, 0, 0.2, 0.5])
            wire.drop = lambda message, rate=rate: self.rng.random() < rate

    def heal(self) -> None:
        for wires in (self.client.wires, self.ear.wires):
            for wire in wires:
                wire.drop = lambda message: False
                if not wire.up:
                    wire.mend()

    def decided(self, number: int, offset: int, value: bytes) -> None:
        known = self.known.setdefault((number, offset), value)
        assert known == value, f"{number}/{offset} was {known}, and is {value}"

    async def step(self) -> None:
        self.spoil()
        act = self.rng.choice([self.capture, self.write, self.write, self.unsafe_write, self.read])
        try:
            await act()
            outcome = "done"
        except (RaceLost, TokenReused, Unavailable) as e:
            outcome = type(e).__name__
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    async def capture(self) -> None:
        segment = self.rng.choice(self.segments)
        captured = await segment.capture(timeout=1.0)
        self.tokens.append((segment, captured.token))
        for offset, value in captured.written.items():
            self.decided(segment.number, offset, value)
        free = set(captured.token.free())
        for number, offset in self.known:
            assert number != segment.number or offset not in free, "a decided register is free"

    async def write(self) -> None:
        if not self.tokens:
            return
        segment, token = self.rng.choice(self.tokens)
        await self._write(
            segment, lambda o, v: segment.write(o, v, token, timeout=self.rng.choice([0.2, 1.0]))
        )

    async def unsafe_write(self) -> None:
        segment = self.rng.choice(self.segments)
        await self._write(segment, lambda o, v: segment.unsafe_write(o, v, timeout=0.5))

    async def _write(self, segment, write) -> None:
        offset = self.rng.randrange(SIZE)
        value = b"%d" % self.rng.randrange(4)
        try:
            await write(offset, value)
        except AlreadyWritten as e:
            self.decided(segment.number, offset, e.value)
            raise
        self.decided(segment.number, offset, value)

    async def read(self) -> None:
        segment = self.rng.choice(self.segments)
        values = await segment.read_range(timeout=1.0)
        for offset, value in enumerate(values):
            if value is not None:
                self.decided(segment.number, offset, value)
            else:
                assert (segment.number, offset) not in self.known, "a decided register is empty"

    async def finish(self) -> None:
        self.heal()
        await asyncio.sleep(10)
        for segment in self.segments:
            for offset, value in enumerate(await segment.read_range()):
                if value is not None:
                    self.decided(segment.number, offset, value)
        await asyncio.sleep(10)
        assert sorted(self.heard) == sorted(self.known.items())
        self.listening.cancel()
        self.check_values()

    def check_values(self) -> None:
        """One value per ballot and register, over all wires of the client."""
        issued: dict = {}
        for wire in self.client.wires:
            for m in wire.sent:
                if isinstance(m, Write):
                    for offset, value in zip(m.offsets, m.values, strict=True):
                        if offset < METADATA:
                            at = (m.space, m.segment, offset, m.ballot)
                            known = issued.setdefault(at, value)
                            assert known == value, f"two values of {at[:3]} under one ballot"


def run(seed: int, steps: int = STEPS) -> dict[str, int]:
    """One run; how often the calls ended how."""

    async def drive() -> dict[str, int]:
        wires = Wires(3)
        campaign = Campaign(wires, random.Random(seed))
        await campaign.prepare()
        for _ in range(steps):
            await campaign.step()
        await campaign.finish()
        await wires.close()
        return campaign.outcomes

    with World(seed) as simulated, turned(**least()):
        return simulated.run(drive())


def run_all(seeds: int) -> dict[str, int]:
    """So many seeds; how often the calls ended how."""
    reached: dict[str, int] = {}
    for seed in range(seeds):
        for outcome, count in run(seed).items():
            reached[outcome] = reached.get(outcome, 0) + count
    return reached


def test_a_client_that_forgets_breaks_nothing():
    reached = run_all(SEEDS)
    wanted = {"done", "CaptureLost", "TokenReused", "Unavailable", "AlreadyWritten"}
    assert wanted <= reached.keys(), reached


# ------------------------------------------------------------------ that it can fail


def forget_the_newest(patch):
    """The newest of what was forgotten is taken for never issued."""

    def has(self, group, rank):
        highest = self._highest.get(group)
        return highest is not None and rank < highest

    patch(memory._Forgotten, "has", has)


def forget_unsafe_writes(patch):
    """What was written without a token is forgotten without a trace."""
    shipped = memory._Past.add

    def add(self, segment_name, ballot):
        if ballot != UNSAFE:
            shipped(self, segment_name, ballot)

    patch(memory._Past, "add", add)


def forget_doubts(patch):
    """Writes in doubt are forgotten as if they were decided."""
    shipped = memory.Memory.__init__

    def init(self):
        shipped(self)
        self._in_doubt = self._decided

    patch(memory.Memory, "__init__", init)
    patch(memory.BallotWrites, "is_refused", property(lambda self: False, lambda self, value: None))


def count_half_a_promise(patch):
    """A promise counts although pages of its report are missing."""
    shipped = prepare.on_promise

    def on_promise(c, server, p):
        return shipped(c, server, msgspec.structs.replace(p, next=COMPLETE))

    patch(prepare, "on_promise", on_promise)


def read_half(patch):
    """A reading counts as one of all spans although it was cut off."""

    async def read(self, segment_name, spans, deadline):
        return (await self.read_page(segment_name, spans, deadline))[0]

    patch(PaxosRegisters, "read", read)


def read_the_newest_segment(patch):
    """After a gap, a listener reads the newest segment only."""

    def go_back(self):
        self._behind, self._from = max(self._done.below, self._tail - 1), 0

    patch(Follower, "_go_back", go_back)


def wait_for_what_nobody_decides(patch):
    """A register that one server accepted holds up all that come after it."""
    shipped = PartitionListener._read_late

    async def settle(self, at, *rest):
        await shipped(self, at, *rest)
        if at in self._votes:
            self._votes[at].empty_at = 0.0

    patch(PartitionListener, "_read_late", settle)


FAULTS = [
    forget_the_newest,
    forget_unsafe_writes,
    forget_doubts,
    count_half_a_promise,
    read_half,
    read_the_newest_segment,
    wait_for_what_nobody_decides,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_campaign_notices(fault, monkeypatch):
    fault(monkeypatch.setattr)
    with pytest.raises((AssertionError, ProtocolViolation)):
        run_all(10 * SEEDS)
