"""Whatever a caller passes: it works, or it is the caller's mistake and nothing was sent."""

import asyncio
import enum
import math
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wormspace
from wires import World as Wires
from wires import simulated
from wormspace import Address, BadAddress, Token, UsageError
from wormspace.errors import WormError
from wormspace.paxos.messages import Capture, Trim, Write
from wormspace.wire.messages import Listen


class Offset(enum.IntEnum):
    ONE = 1


NUMBERS = st.one_of(
    st.sampled_from(
        [-1, 0, 1, 7, 8, 9, 1 << 31, 1 << 32, (1 << 62) - 1, 1 << 62, 1 << 64, -(1 << 70)]
    ),
    st.sampled_from([True, False, Offset.ONE, 1.0, 0.5, math.nan, math.inf, None, "1", b"1", [1]]),
)
VALUES = st.sampled_from(
    [
        b"",
        b"v",
        bytearray(b"v"),
        memoryview(b"v"),
        "v",
        "\ud800",
        1,
        True,
        None,
        [1],
        b"x" * (2 << 20),
    ]
)
NAMES = st.sampled_from(
    ["", "s", "x" * 255, "x" * 256, "é" * 128, "\ud800", "a\0b", b"s", 1, None, ["s"]]
)
TIMEOUTS = st.sampled_from(
    [None, 0, -1, 0.5, 1, math.nan, math.inf, -math.inf, 1e300, True, "1", 1 << 80]
)
TOKENS = st.sampled_from(["right", "other", "text", None, 1, b"t"])
ADDRESSES = st.one_of(NUMBERS, st.tuples(NUMBERS, NUMBERS), st.just((1, 2, 3)))

CALLS = {
    "capture": (st.tuples(NUMBERS, NUMBERS), lambda it, a, t: it.segment.capture(*a, timeout=t)),
    "write": (
        st.tuples(NUMBERS, VALUES, TOKENS),
        lambda it, a, t: it.segment.write(a[0], a[1], it.token(a[2]), timeout=t),
    ),
    "write_range": (
        st.tuples(NUMBERS, st.one_of(VALUES, st.lists(VALUES, max_size=3)), TOKENS),
        lambda it, a, t: it.segment.write_range(a[0], a[1], it.token(a[2]), timeout=t),
    ),
    "unsafe_write": (
        st.tuples(NUMBERS, VALUES), lambda it, a, t: it.segment.unsafe_write(*a, timeout=t)
    ),
    "read": (st.tuples(NUMBERS), lambda it, a, t: it.segment.read(*a, timeout=t)),
    "read_range": (
        st.tuples(NUMBERS, NUMBERS),
        lambda it, a, t: it.segment.read_range(*a, timeout=t),
    ),
    "settle": (st.tuples(NUMBERS, VALUES), lambda it, a, t: it.segment.settle(*a, timeout=t)),
    "holds": (
        st.tuples(TOKENS, NUMBERS),
        lambda it, a, t: it.segment.holds(it.token(a[0]), a[1], timeout=t),
    ),
    "inspect": (st.tuples(NUMBERS, NUMBERS), lambda it, a, t: it.segment.inspect(*a, timeout=t)),
    "alloc": (st.tuples(VALUES, NUMBERS), lambda it, a, t: it.space.alloc(*a, timeout=t)),
    "segment": (st.tuples(NUMBERS), lambda it, a, t: it.space.segment(*a, timeout=t)),
    "check": (st.tuples(NUMBERS), lambda it, a, t: it.space.check(*a, timeout=t)),
    "trim": (st.tuples(NUMBERS), lambda it, a, t: it.space.trim(*a, timeout=t)),
    "trim_prefix": (st.tuples(NUMBERS), lambda it, a, t: it.space.trim_prefix(*a, timeout=t)),
    "space": (st.tuples(NAMES), lambda it, a, t: it.worm.space(*a).tail(timeout=t)),
    "listen": (st.tuples(ADDRESSES, NUMBERS), lambda it, a, t: listen(it.space.listen, a)),
    "segment.listen": (st.tuples(NUMBERS), lambda it, a, t: listen(it.segment.listen, a)),
}  # fmt: skip


async def listen(how, a):
    events = how(a[0], stop=a[1]) if len(a) == 2 else how(*a)
    await events.close()


class Scene(SimpleNamespace):
    def token(self, which):
        return {"right": self.mine, "other": self.others, "text": str(self.mine)}.get(which, which)

    def sent(self) -> int:
        """What changes or subscribes to something."""
        kinds = Write | Capture | Trim | Listen
        return sum(isinstance(m, kinds) for wire in self.worm.wires for m in wire.sent)


async def scene(w):
    worm = w.client(timeout=1.0)
    space = worm.space("s")
    segment = await space.alloc(b"m", size=8)
    other = await worm.space("other").alloc(size=8)
    return Scene(
        worm=worm,
        space=space,
        segment=segment,
        mine=(await segment.capture()).token,
        others=(await other.capture()).token,
    )


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_call_works_or_is_refused_before_anything_is_sent(name, data):
    arguments, call = CALLS[name]
    given_, timeout = data.draw(arguments), data.draw(TIMEOUTS)

    async def work():
        w = Wires(3)
        it = await scene(w)
        before = it.sent()
        try:
            await call(it, given_, timeout)
        except UsageError as e:
            refusal = e
        except WormError:
            refusal = None
        else:
            refusal = None
        if refusal is not None:
            assert str(refusal)
            if not isinstance(refusal, wormspace.NotAllocated | wormspace.ValueTooLarge):
                assert it.sent() == before, "something was sent"
        assert await it.worm.space("other").check(0) == b""
        segment = await it.worm.space("after").alloc(size=1)
        await segment.unsafe_write(0, b"v")
        await w.close()

    simulated(work)


@given(st.one_of(st.text(), st.binary(), st.none(), st.integers(), st.just("9" * 5000 + "/1")))
@settings(max_examples=100, deadline=None)
def test_texts_that_are_no_address_or_token(text):
    for kind in (Address, Token):
        try:
            kind.parse(text)
        except UsageError:
            pass


def test_a_token_that_makes_no_sense_is_none():
    good = Token("s", 0, 2, 8, b"\0" * 7 + b"\1" + b"p" * 8, ((3, 4),))
    assert Token.parse(str(good)) == good
    for bad in (
        Token("s", 0, 8, 2, good.fence),
        Token("s", 0, 2, 2, good.fence),
        Token("s", 0, 2, 8, b""),
        Token("s", 0, 2, 8, bytes(256)),
        Token("s", 0, 2, 8, good.fence, ((4, 3),)),
        Token("s", 0, 2, 8, good.fence, ((1, 9),)),
    ):
        with pytest.raises(wormspace.BadToken):
            Token.parse(str(bad))


async def test_a_listener_far_beyond_everything_is_refused_and_the_client_serves():
    async with wormspace.connect("memory:") as worm:
        with pytest.raises(BadAddress):
            worm.space("s").listen(0, stop=1 << 62)
        for start in ((), (1,), (1, 2, 3)):
            with pytest.raises(BadAddress, match="start is an Address"):
                worm.space("s").listen(start)
        assert await worm.space("s").tail() == 0


async def test_what_may_change_later_is_copied():
    async with wormspace.connect("memory:") as worm:
        segment = await worm.space("s").alloc(size=1)
        value = bytearray(b"before")
        writing = asyncio.ensure_future(segment.unsafe_write(0, value))
        await asyncio.sleep(0)
        value[:] = b"after!"
        await writing
        assert await segment.read(0) == b"before"


async def test_calls_from_another_event_loop_are_refused():
    async with wormspace.connect("memory:") as worm:
        segment = await worm.space("s").alloc(size=1)

        async def elsewhere():
            for call in (segment.read(0), worm.space("s").tail(), worm.spaces()):
                with pytest.raises(UsageError, match="event loop"):
                    await call
            with pytest.raises(UsageError, match="event loop"):
                segment.listen()

        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        assert await segment.read(0) is None
