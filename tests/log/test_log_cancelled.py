"""Every call of a log is cancelled at each of its waits: nothing is held, and nothing is lost."""

import asyncio
import contextlib
import random

import pytest

import wormspace
from cancelling import cancel_everywhere
from wormspace.knobs import turned


class Setting:
    """A log with a past, used by two handles; what is acknowledged before is known."""

    def __init__(self, worm, log, bodies):
        self.worm = worm
        self.log = log
        self.bodies = bodies


def setting(worn=False):
    @contextlib.asynccontextmanager
    async def make():
        with turned(log_cell_size=2, log_cell_page=1):
            worm = await wormspace.connect("memory:", rng=random.Random(1))
            log = await worm.log("orders", segment_size=4, patience_s=0.1)
            bodies = {}
            for i in range(7):
                bodies[await log.append(b"%d" % i, streams=["s"])] = b"%d" % i
            for position in (1, 2, 3):
                await log.cursor("c").commit(position)
            await log.trim(2)
            if worn:
                await log.close()
                log = await worm.log("orders", patience_s=0.1)
            try:
                yield Setting(worm, log, {p: body for p, body in bodies.items() if p >= 2})
            finally:
                await worm.close()

    return make


async def serves_on(it, *, first=2, may_add=()):
    """What was acknowledged is there, once; the same handle and another one go on."""
    async with asyncio.timeout(60):
        appended = await it.log.append(b"later", streams=["s"])
        other = await it.worm.log("orders")
        begin = await other.first()
        entries = {e.position: e.body for e in await other.read_range(begin)}
        assert begin >= first
        for position, body in it.bodies.items():
            assert position < begin or entries.pop(position) == body
        assert entries.pop(appended) == b"later"
        assert sorted(entries.values()) in ([], sorted(may_add)), "it is there once, or not at all"
        positions = [e.position for e in await other.read_stream("s")]
        assert [p for p in it.bodies if p >= begin] == [p for p in positions if p in it.bodies]
        position = await other.append(b"last")
        assert await it.log.tail() == position + 1
        await it.log.cursor("c").commit(position)
        assert await other.cursor("c").load() == position
        assert await other.trim(position) == position
        assert await it.log.first() == position
        listening = it.log.listen()
        assert (await anext(listening)).body == b"last"
        await listening.close()


async def opened(it):
    log = await it.worm.log("another", segment_size=4)
    await log.append(b"x")
    await log.close()


async def reopened(it):
    await (await it.worm.log("orders")).close()


CALLS = {
    "append": (lambda it: it.log.append(b"new", streams=["s"]), [b"new"]),
    "append_many": (lambda it: it.log.append_many([b"new"] * 2), [b"new"] * 2),
    "read": (lambda it: it.log.read(4), []),
    "read_range": (lambda it: it.log.read_range(2), []),
    "tail": (lambda it: it.log.tail(), []),
    "first": (lambda it: it.log.first(), []),
    "fill": (lambda it: it.log.fill(5), []),
    "read_stream": (lambda it: it.log.read_stream("s"), []),
    "streams": (lambda it: it.log.streams(), []),
    "trim": (lambda it: it.log.trim(6), []),
    "trim_larger": (lambda it: it.log.trim_larger(1), []),
    "info": (lambda it: it.log.info(), []),
    "load": (lambda it: it.log.cursor("c").load(), []),
    "commit": (lambda it: it.log.cursor("c").commit(4), []),
    "opening": (opened, []),
    "opening and closing": (reopened, []),
    "listen": (lambda it: anext(it.log.listen(2)), []),
    "listen to a stream": (lambda it: anext(it.log.listen(2, stream="s")), []),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_cancelled_anywhere(call):
    act, adds = CALLS[call]
    assert cancel_everywhere(setting(worn=True), act, lambda it: serves_on(it, may_add=adds))


@pytest.mark.parametrize("call", ["append", "append_many", "commit"])
def test_a_call_of_who_holds_the_right_to_write_is_cancelled_anywhere(call):
    act, adds = CALLS[call]
    assert cancel_everywhere(setting(), act, lambda it: serves_on(it, may_add=adds))
