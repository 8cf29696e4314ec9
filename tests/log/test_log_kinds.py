"""A log is refused where something else is, before anything is written; nothing is hurt."""

import asyncio

import msgspec
import pytest

import wormspace
from wormspace.errors import NewerFormat, WrongKind
from wormspace.log.opening import Config
from wormspace.log.records import FORMAT
from wormspace.log.spaces import CONFIG, CURSOR, ENTRIES, SEQUENCER, TRIM, metadata
from wormspace.space import stamp


@pytest.fixture
def worm(runner):
    async def connect():
        return await wormspace.connect("memory:")

    client = runner.run(connect())
    yield client
    runner.run(client.close())


async def everything(worm):
    """All that is in the address space."""
    found = {}
    for name in await worm.spaces():
        space = worm.space(name)
        for number in range(await space.head(), await space.tail()):
            segment = await space.segment(number)
            values = await segment.read_range(0, min(segment.size, 64))
            found[name, number] = (segment.metadata, values)
    return found


OTHERS = {
    "the user's": b"mine",
    "an object": stamp("object", 1, b""),
    "nobody's": b"",
    "another part's": metadata(CURSOR),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("part", ["", f"/{CONFIG}", f"/{SEQUENCER}", f"/{TRIM}"])
@pytest.mark.parametrize("trimmed", [0, 2])
async def test_a_log_is_not_opened_over_something_else(worm, what, part, trimmed):
    space = worm.space(f"orders{part}")
    for _ in range(trimmed + 1):
        segment = await space.alloc(OTHERS[what], 17)
    captured = await segment.capture()
    await segment.write(0, b"precious", captured.token)
    await space.trim_prefix(trimmed)
    before = await everything(worm)
    with pytest.raises(WrongKind, match=r"choose another name|the user's own making"):
        await worm.log("orders", segment_size=16)
    assert await everything(worm) == before


async def test_a_replicated_object_is_left_whole(worm):
    class Counter(wormspace.StateMachine):
        total: int = 0

        @wormspace.command
        def add(self, n: int) -> int:
            self.total += n
            return self.total

    counter = await worm.replicate(Counter, "orders")
    assert await counter.add(3) == 3
    with pytest.raises(WrongKind):
        await worm.log("orders")
    assert await counter.add(4) == 7
    await counter.close()
    counter = await worm.replicate(Counter, "orders")
    assert await counter.add(1) == 8
    await counter.close()


async def test_a_cursor_is_not_committed_into_something_else(worm):
    log = await worm.log("orders")
    await worm.space(f"orders/{CURSOR}/c").alloc(b"mine", 3)
    before = await everything(worm)
    with pytest.raises(WrongKind):
        await log.cursor("c").commit(0)
    with pytest.raises(WrongKind):
        await log.cursor("c").load()
    assert await everything(worm) == before


async def test_who_comes_between_the_opening_and_the_first_append_is_left_whole(worm):
    log = await worm.log("orders")
    segment = await worm.space("orders").alloc(stamp("object", 1), 17)
    before = await segment.read_range()
    with pytest.raises(WrongKind):
        await log.append(b"x")
    assert await segment.read_range() == before


async def test_a_newer_log_is_refused_whatever_is_newer(worm):
    config = msgspec.msgpack.encode(Config(16, 16))
    await worm.space(f"new/{CONFIG}").alloc(stamp("log", FORMAT + 1, b"config\0" + config), 1)
    await worm.space("newer").alloc(stamp("log", FORMAT + 1, ENTRIES.encode() + b"\0"), 17)
    await worm.space(f"newest/{TRIM}").alloc(stamp("log", FORMAT + 1, TRIM.encode() + b"\0"), 17)
    before = await everything(worm)
    for name in ("new", "newer", "newest"):
        with pytest.raises(NewerFormat, match="update"):
            await worm.log(name)
    assert await everything(worm) == before


async def test_of_many_who_make_a_log_at_once_all_use_the_same(worm):
    logs = await asyncio.gather(
        *(worm.log("orders", segment_size=None if i else 16) for i in range(8)),
        return_exceptions=True,
    )
    made = [log for log in logs if not isinstance(log, Exception)]
    assert len({log.segment_size for log in made}) == 1
    positions = await asyncio.gather(*(log.append(b"x") for log in made))
    assert sorted(positions) == list(range(len(made)))
