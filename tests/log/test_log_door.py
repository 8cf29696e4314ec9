"""Whatever a caller passes is looked at before it is sent; nobody else notices."""

import asyncio
import contextlib
import inspect
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wormspace
from wormspace.log.cursors import Cursor
from wormspace.log.spaces import CONFIG, CURSOR, SEQUENCER, TRIM
from wormspace.worm import Worm

SURROGATE = "\ud800"

WRONG = {
    "body": ["text", None, 1, 1.5, ["x"], {"a": 1}, object()],
    "bodies": ["text", b"bytes", bytearray(b"x"), None, 5, ["text"], [b"x", None], [b"x", 1], [[]]],
    "headers": [
        {"n": b"x"},
        {b"n": "x"},
        {1: "x"},
        {"n": 1},
        {"n": None},
        {"n": SURROGATE},
        {SURROGATE: "x"},
        [("a", "b")],
        "a=b",
        None,
    ],
    "streams": ["ann", b"ann", None, 5, [b"ann"], [None], [""], [SURROGATE], ["x" * 256], {"a": 1}],
    "stream": [b"ann", 5, "", SURROGATE, "x" * 256, ["ann"]],
    "position": [-1, 1.0, "1", None, True, b"1", math.nan, 1 << 62, 1 << 80],
    "bound": [-1, 1.0, "1", True, b"1", math.nan, 1 << 62, 1 << 80],
    "amount": [-1, "1", None, True, math.nan, math.inf, -math.inf, b""],
    "timeout": [0, -1, math.nan, "1", b"1", [1]],
    "consumer": ["", None, 5, b"x", SURROGATE, "x" * 256],
    "name": ["", None, 5, b"x", SURROGATE, "x" * 250, "a/config", "a/cursor/x", "a/b/trim/c"],
    "segment_size": [3, 0, -1, 65_537, "16", 16.0, True, 1 << 70],
    "flag": ["x", None, 0, 1, "no", []],
    "sequencer": ["nobody", None, 5, ["auto"]],
    "host_port": [(None, 0), (b"h", 0), ("h", "0"), ("h", -1), ("h", 65_536), ("h", True)],
}


def calls(worm, log):
    """Every public call, with one argument to be wrong: (what is wrong, call)."""
    yield "body", lambda x: log.append(x)
    yield "bodies", lambda x: log.append_many(x)
    yield "headers", lambda x: log.append(b"x", headers=x)
    yield "headers", lambda x: log.append_many([b"x"], headers=x)
    yield "streams", lambda x: log.append(b"x", streams=x)
    yield "streams", lambda x: log.append_many([b"x"], streams=x)
    yield "position", lambda x: log.read(x)
    yield "position", lambda x: log.fill(x)
    yield "position", lambda x: log.trim(x)
    yield "position", lambda x: log.read_range(x)
    yield "bound", lambda x: log.read_range(0, x)
    yield "bound", lambda x: log.read_stream("s", x)
    yield "position", lambda x: log.cursor("c").commit(x)
    yield "amount", lambda x: log.trim_older(x)
    yield "amount", lambda x: log.trim_larger(x)
    yield "amount", lambda x: worm.log("another", patience_s=x)
    yield "stream", lambda x: log.read_stream(x)
    yield "consumer", lambda x: log.cursor(x).load()
    yield "name", lambda x: worm.log(x)
    yield "segment_size", lambda x: worm.log("another", segment_size=x)
    yield "sequencer", lambda x: worm.log("another", sequencer=x)
    yield "flag", lambda x: worm.log("another", capture_ahead=x)
    yield "host_port", lambda x: worm.log("another", host=x[0], port=x[1])
    for call in (
        *(lambda x: log.append(b"x", timeout=x), lambda x: log.append_many([b"x"], timeout=x)),
        *(lambda x: log.read(0, timeout=x), lambda x: log.read_range(0, timeout=x)),
        *(lambda x: log.tail(timeout=x), lambda x: log.first(timeout=x)),
        *(lambda x: log.fill(0, timeout=x), lambda x: log.trim(0, timeout=x)),
        *(lambda x: log.trim_older(1, timeout=x), lambda x: log.trim_larger(1, timeout=x)),
        *(lambda x: log.info(timeout=x), lambda x: log.streams(timeout=x)),
        *(lambda x: log.read_stream("s", timeout=x), lambda x: worm.log("another", timeout=x)),
        lambda x: log.cursor("c").load(timeout=x),
        lambda x: log.cursor("c").commit(0, timeout=x),
    ):
        yield "timeout", call


def subscribing(log):
    yield "position", lambda x: log.listen(x)
    yield "position", lambda x: log.listen(x, stream="s")
    yield "stream", lambda x: log.listen(stream=x)


class Marker:
    """Stands for the argument that is to be wrong; so do its parts."""

    def __getitem__(self, part):
        return self


MARKER = Marker()


class Recorder:
    """Notes which parameters of a class's methods are passed the marker."""

    def __init__(self, kind, seen):
        self._kind = kind
        self._seen = seen

    def __getattr__(self, name):
        def call(*given, **named):
            bound = inspect.signature(getattr(self._kind, name)).bind(None, *given, **named)
            passed = [p for p, value in bound.arguments.items() if value is MARKER]
            self._seen.update((self._kind.__name__, name, p) for p in passed)
            return Recorder(Cursor, self._seen) if name == "cursor" else None

        return call


def parameters(kind, names):
    return {
        (kind.__name__, name, parameter)
        for name in names
        for parameter in inspect.signature(getattr(kind, name)).parameters
        if parameter != "self"
    }


def test_every_argument_of_every_public_call_is_passed_wrong_ones():
    seen = set()
    worm, log = Recorder(Worm, seen), Recorder(wormspace.log.Log, seen)
    for _, call in [*calls(worm, log), *subscribing(log)]:
        call(MARKER)
    public = [name for name in vars(wormspace.log.Log) if not name.startswith("_")]
    public.remove("open")  # what `Worm.log` calls
    methods = [name for name in public if inspect.isfunction(getattr(wormspace.log.Log, name))]
    everything = parameters(wormspace.log.Log, methods) | parameters(Worm, ["log"])
    everything |= parameters(Cursor, [name for name in vars(Cursor) if not name.startswith("_")])
    assert everything - seen == set(), "add a case to `calls`"


@contextlib.asynccontextmanager
async def one_entry():
    async with wormspace.connect("memory:") as worm:
        log = await worm.log("orders", segment_size=16)
        await log.append(b"the entry", streams=["s"])
        yield worm, log


async def untouched(worm, log):
    """Nobody noticed: the log is what it was, for another one too, and goes on."""
    for reader in (log, await worm.log("orders")):
        assert [e.body for e in await reader.read_range(0)] == [b"the entry"]
        assert await reader.tail() == 1
        assert await reader.cursor("c").load() == 0
        assert [e.position for e in await reader.read_stream("s")] == [0]
        assert await reader.streams() == {"s": 0}
    assert "another" not in " ".join(await worm.spaces())


async def outcome(call, argument):
    try:
        return await asyncio.wait_for(call(argument), 10)
    except Exception as e:  # noqa: BLE001 - any of them is the outcome
        return e


async def test_a_wrong_argument_is_refused_and_nobody_notices():
    async with one_entry() as (worm, log):
        for what, call in calls(worm, log):
            for wrong in WRONG[what]:
                came = await outcome(call, wrong)
                assert isinstance(came, wormspace.UsageError), (what, wrong, came)
        for what, subscribe in subscribing(log):
            for wrong in WRONG[what]:
                if wrong is not None:
                    with pytest.raises(wormspace.UsageError):
                        subscribe(wrong)
        await untouched(worm, log)
        assert await log.append(b"and on") == 1


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(categories=["Cs", "L", "N", "Cc"]))
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_passed_an_answer_or_an_error_comes_and_the_log_serves_on(data):
    async def run():
        async with one_entry() as (worm, log):
            everything = [*calls(worm, log), *subscribing(log)]
            everything = [(what, call) for what, call in everything if what != "host_port"]
            for _ in range(6):
                _, call = data.draw(st.sampled_from(everything))
                value = data.draw(anything)
                try:
                    result = call(value)
                    if isinstance(result, wormspace.Stream):
                        await result.close()
                    else:
                        await asyncio.wait_for(result, 10)
                except (wormspace.UsageError, wormspace.Trimmed, wormspace.Unavailable):
                    pass  # `Unavailable`: what was drawn may be a time-out of next to nothing
            other = await worm.log("orders")
            position = await asyncio.wait_for(log.append(b"later"), 10)
            assert (await other.read(position)).body == b"later"
            assert await other.tail() == position + 1
            assert position in [e.position for e in await other.read_range(await other.first())]
            await asyncio.wait_for(log.read_stream("s"), 10)

    asyncio.run(run())


async def test_what_can_change_is_copied():
    async with wormspace.connect("memory:") as worm:
        log = await worm.log("orders")
        body, headers, streams = bytearray(b"then"), {"k": "then"}, ["then", "then"]
        appending = asyncio.ensure_future(
            log.append_many([body, memoryview(b"view")], headers=headers, streams=streams)
        )
        await asyncio.sleep(0)
        body[:], headers["k"], streams[0] = b"late", "late", "late"
        await appending
        first, second = await log.read_range(0)
        assert (first.body, first.headers, first.streams) == (b"then", {"k": "then"}, ("then",))
        assert second.body == b"view"
        assert type(first.body) is type(second.body) is bytes


async def test_no_two_logs_share_a_space():
    """Names of logs and consumers that make, or nearly make, one name."""
    words = ["a", "b", CONFIG, CURSOR, SEQUENCER, TRIM]
    async with wormspace.connect("memory:") as worm:
        owners = {}
        for first in words:
            for name in (first, *(f"{first}/{w}" for w in words)):
                try:
                    log = await worm.log(name)
                except wormspace.BadAddress:
                    continue
                await log.append_many([name.encode()] * len(name))
                for consumer in ("x", f"{CURSOR}/x", CONFIG, f"x/{TRIM}"):
                    await log.cursor(consumer).commit(len(name))
                owners[name] = log
        assert "a/b" in owners
        assert f"{CONFIG}" in owners
        for name, log in owners.items():
            assert [e.body for e in await log.read_range(0)] == [name.encode()] * len(name)
            assert await log.cursor("x").load() == len(name)


async def test_the_longest_names_work_and_longer_ones_are_refused():
    async with wormspace.connect("memory:") as worm:
        log = await worm.log("n" * 245)
        await log.append(b"x", streams=["s" * 255])
        assert await log.trim(1) == 1
        with pytest.raises(wormspace.BadAddress, match="1 to 2 bytes"):
            log.cursor("ccc")
        await log.cursor("c").commit(1)
        with pytest.raises(wormspace.BadAddress, match="1 to 245 bytes"):
            await worm.log("n" * 246)
