"""A server whose every size is as small as can be does all that one of the shipped sizes does."""

import asyncio
import contextlib

import pytest

import wormspace
from wires import world
from wormspace.errors import Trimmed
from wormspace.knobs import least, turned

SMALL = {name: size for name, size in least().items() if name.startswith("server_")}


@pytest.mark.parametrize("knobs", [SMALL, *({name: size} for name, size in SMALL.items())])
async def test_all_calls_work_with_the_least_of_the_servers_sizes(knobs):
    with turned(**knobs):
        async with world(3) as w:
            client = w.client(timeout=20)
            space = client.space("s")
            heard = []

            async def listen():
                async for event in space.listen():
                    heard.append(event)  # noqa: PERF401 - it goes on for ever

            listening = asyncio.ensure_future(listen())
            segment = await space.alloc(b"m", size=40)
            for offset in range(0, 20, 2):  # ten promises, ten marks
                token = (await segment.capture(offset, offset + 1)).token
                await segment.write(offset, b"%d" % offset, token)
            captured = await segment.capture()
            assert sorted(captured.written) == list(range(0, 20, 2))
            await segment.write_range(20, [b"x"] * 20, captured.token)
            found = await segment.read_range(0, 40)
            assert (
                found
                == [b"%d" % o if o < 20 and o % 2 == 0 else None for o in range(20)] + [b"x"] * 20
            )
            for name in ("a", "b", "c"):
                await client.space(name).alloc()
            assert await client.spaces() == ["a", "b", "c", "s"]
            held = await segment.inspect(0, 40)
            assert {len(states) for states in held.values()} == {40}
            async with asyncio.timeout(10):
                while sum(isinstance(e, wormspace.Written) for e in heard) < 30:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await segment.trim()
            with pytest.raises(Trimmed):
                await segment.read(0)
            async with asyncio.timeout(10):
                while any(e.view.get("garbage", b"") or swept(e) for e in w.engines):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening


def swept(engine):
    """Whether rows of segment 0 of `s` are still there."""
    space = engine.view.get("spaces", b"s")
    return any(True for _ in engine.view.scan("rows", space, space + b"\xff" * 12))
