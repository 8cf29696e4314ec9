"""Whoever reaches a replica's port may say anything: it is refused, or fails, and no replica stops.

A replica that stopped over a packet would stop again at each start, for the packet is in the log.
"""

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wormspace
from wormspace.rpc import Caller, Failure
from wormspace.smr import StateMachine, command, query
from wormspace.smr.calls import MAX_CALLS
from wormspace.smr.fetching import AT_ONCE
from wormspace.smr.learner import Learner
from wormspace.smr.nesting import MAX_NESTING, is_nested_too_deep
from wormspace.smr.records import Fetch, Fetched, Packet, encode
from wormspace.smr.versions import UPGRADE


class Box(StateMachine):
    count: int = 0
    held: Any = None

    @command
    def add(self, amount: int) -> int:
        self.count += amount
        return self.count

    @command
    def put(self, value: Any) -> Any:
        self.held = value
        return value

    @command
    def wrap(self) -> None:
        self.held = [self.held]

    @query
    def get(self) -> Any:
        return self.held


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def call(column: bytes) -> bytes:
    """One call of `put`, with these bytes as its column."""
    return b"\x92\x91\x92\x00\x01\x91\x92\xa3put" + column


DEEP = b"\x91" * 100_000 + b"\xc0"
COMMANDS = {
    "nothing": b"",
    "a deep packet": DEEP,
    "a deep argument": call(b"\x91" + DEEP),
    "an argument as deep as the interpreter goes": call(b"\x91" * 960 + b"\xc0"),
    "a deep second argument": b"\x92\x91\x92\x00\x01\x91\x93\xa3add\x91\x01" + DEEP,
    "a deep argument of nobody": b"\x92\x91\x92\x00\x01\x91\x92\xa4nope" + DEEP,
    "a name that is no text": b"\x92\x91\x92\x00\x01\x91\x92\xa3\xff\xfe\xfd\x91\x01",
    "a key that is a list": call(b"\x91\x81\x91\x01\x02"),
    "a time that is none": call(b"\x91\xd7\xff" + b"\xff" * 8),
    "calls without end": encode(([(0, MAX_CALLS)] * 3, [["add"]])),
    "an upgrade to nothing": UPGRADE,
    "an upgrade that is no text": UPGRADE + b"\x92\x02\x81\xa1\xff\xa1x",
    "a deep upgrade": UPGRADE + b"\x93\x02\x80" + DEEP,
    "an upgrade that nobody knows": UPGRADE + encode([999, {}]),
    "an upgrade to another shape": UPGRADE + encode([1, {"count": "str"}]),
}
PACKETS = {
    **{what: Packet(b"stranger", 1, 1, raw) for what, raw in COMMANDS.items()},
    "the least number": Packet(b"stranger", -(1 << 63), -(1 << 63), b""),
    "the largest number": Packet(b"stranger", (1 << 64) - 1, (1 << 64) - 1, b""),
    "nobody": Packet(b"", 1, 1, b""),
    "a client as large as a register": Packet(bytes(1 << 20), 1, 1, b""),
}


async def pair(worm):
    return [await worm.replicate(Box, "box", replica=name) for name in ("r1", "r2")]


async def close(replicas):
    for replica in replicas:
        await replica.close()


@pytest.mark.parametrize("what", PACKETS)
async def test_no_packet_stops_a_replica(what):
    async with wormspace.connect("memory:") as worm:
        replicas = await pair(worm)
        await replicas[0].add(1)
        for replica in replicas:
            member = replica._core.context.member
            caller = Caller(member.host, member.port)
            try:
                await caller.call("smr/box/submit", encode(PACKETS[what]), 5)
            except Failure:
                pass
            await caller.close()
        assert await replicas[0].add(1) == 2
        assert await replicas[1].add(1) == 3
        await close(replicas)
        late = await worm.replicate(Box, "box", replica="r3")
        assert await late.add(1) == 4
        await late.close()


@pytest.mark.parametrize("depth", [MAX_NESTING, MAX_NESTING + 1, 900, 981, 984, 987, 50_000])
async def test_a_value_is_nested_too_deep_for_its_caller_alone(depth):
    async with wormspace.connect("memory:") as worm:
        replicas = await pair(worm)
        for replica in replicas:
            beside = replica.add(1)
            if depth == MAX_NESTING:
                assert await replica.put(nested(depth)) == nested(depth)
            else:
                with pytest.raises(TypeError):
                    await replica.put(nested(depth))
            await beside
        assert await replicas[0].add(0) == 2
        await close(replicas)


async def test_a_state_that_grows_into_itself_comes_to_an_end_everywhere():
    async with wormspace.connect("memory:") as worm:
        replicas = await pair(worm)
        failed = 0
        for _ in range(MAX_NESTING + 20):
            try:
                await replicas[0].wrap()
            except TypeError:
                failed += 1
        assert failed == 20
        assert await replicas[0].get() == await replicas[1].get() == nested_none(MAX_NESTING)
        await close(replicas)


def nested_none(depth):
    value = None
    for _ in range(depth):
        value = [value]
    return value


def depth_of(value):
    """Of arrays and maps that have members: the others lead nowhere."""
    if isinstance(value, dict) and value:
        return 1 + max([0, *map(depth_of, value.values())])
    if isinstance(value, list) and value:
        return 1 + max([0, *map(depth_of, value)])
    return 0


plain = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(allow_nan=False),
    st.text(max_size=300), st.binary(max_size=300), st.datetimes(timezones=st.just(None)),
)  # fmt: skip
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner),
    max_leaves=60,
)


async def test_so_many_snapshots_are_fetched_at_a_time():
    """Each that is held is told of every change."""
    async with wormspace.connect("memory:") as worm:
        replicas = await pair(worm)
        member = replicas[0]._core.context.member
        caller = Caller(member.host, member.port)
        begin = encode(Fetch(0, 0))
        fetch = f"smr/box/{member.id.hex()}/fetch"
        for _ in range(AT_ONCE):
            await caller.call(fetch, begin, 5)
        for _ in range(100):
            with pytest.raises(Failure, match="being fetched here already"):
                await caller.call(fetch, begin, 5)
        assert await replicas[0].add(1) == 1
        for ticket in range(1, AT_ONCE + 1):
            for index in range(1, 100):
                raw = await caller.call(fetch, encode(Fetch(ticket, index)), 5)
                if not msgspec.msgpack.decode(raw, type=Fetched).piece:
                    break
        await caller.call(fetch, begin, 5)
        await caller.close()
        await close(replicas)


class Place:
    """A position, in the place of an `Address`, that counts what it is compared with."""

    compared = 0

    def __init__(self, number):
        self.number = number

    def __lt__(self, other):
        Place.compared += 1
        return self.number < other.number

    def __le__(self, other):
        Place.compared += 1
        return self.number <= other.number

    def __eq__(self, other):
        Place.compared += 1
        return self.number == other.number

    __hash__ = None


async def test_to_give_up_waiting_for_a_position_costs_the_same_however_many_wait():
    learner = Learner.__new__(Learner)
    learner.engine = SimpleNamespace(position=Place(0))
    learner._waiting, learner._count, learner._given_up = [], itertools.count(), 0
    learner._loop = asyncio.get_running_loop()
    many = 2000
    waiting = [asyncio.ensure_future(learner.reached(Place(1 + i % 7))) for i in range(many)]
    await asyncio.sleep(0)
    Place.compared = 0
    for task in waiting[: many // 2] + waiting[many // 2 + 10 :]:
        task.cancel()
    await asyncio.sleep(0)
    assert Place.compared < 20 * many
    assert len(learner._waiting) <= 20
    learner.engine.position = Place(100)
    learner._wake()
    await asyncio.gather(*waiting[many // 2 : many // 2 + 10])
    assert not learner._waiting


@given(values)
@settings(suppress_health_check=[HealthCheck.too_slow])  # of a machine that is busy
def test_the_depth_is_what_it_is(value):
    raw = msgspec.msgpack.encode(value)
    depth = depth_of(value)
    assert not is_nested_too_deep(raw, depth)
    assert depth == 0 or is_nested_too_deep(raw, depth - 1) == (len(raw) > depth - 1)
