"""A write under a token whose earlier writes the client has forgotten reads the register first."""

import asyncio

import pytest

import wormspace
from wormspace.errors import AlreadyWritten, TokenReused
from wormspace.knobs import turned


class Slow:
    """The registers' `read`, whose first answer arrives when the test says so."""

    def __init__(self, registers) -> None:
        self._read = registers.read
        self.is_held, self.release = asyncio.Event(), asyncio.Event()
        registers.read = self.read

    async def read(self, segment_name, spans, deadline):
        values = await self._read(segment_name, spans, deadline)
        if not self.is_held.is_set():
            self.is_held.set()
            await self.release.wait()
        return values


async def forgotten(client):
    """A segment, and a token under which the client no longer knows what it wrote."""
    space = client.space("s")
    segments = [await space.alloc(size=4) for _ in range(3)]
    tokens = [(await segment.capture()).token for segment in segments]
    for segment, token in zip(segments, tokens, strict=True):
        await segment.write(0, b"first", token)
    assert (("s", segments[0].number), tokens[0].fence) not in client.registers._memory.writes
    return segments[0], tokens[0]


@pytest.mark.parametrize(("value", "raises"), [(b"one", None), (b"two", AlreadyWritten)])
async def test_a_register_that_another_call_wrote_meanwhile_is_compared_again(value, raises):
    with turned(registers_memory=2):
        async with wormspace.connect("memory:") as client:
            segment, token = await forgotten(client)
            slow = Slow(client.registers)
            late = asyncio.ensure_future(segment.write(1, value, token))
            await slow.is_held.wait()
            await segment.write(1, b"one", token)
            slow.release.set()
            if raises is None:
                await late
            else:
                with pytest.raises(raises):
                    await late
            assert await segment.read(1) == b"one"


async def test_of_two_values_at_once_one_is_sent():
    with turned(registers_memory=2):
        async with wormspace.connect("memory:") as client:
            segment, token = await forgotten(client)
            both = [segment.write(1, value, token) for value in (b"one", b"two")]
            ends = await asyncio.gather(*both, return_exceptions=True)
            assert [type(end) for end in ends] in (
                [type(None), TokenReused],
                [type(None), AlreadyWritten],
            )


async def test_who_may_not_send_a_second_value_is_told_under_what():
    async with wormspace.connect("memory:") as client:
        segment = await client.space("s").alloc(size=4)
        token = (await segment.capture(1, 2)).token
        for of, first, second in (
            ("unsafe ballot", segment.unsafe_write(0, b"one"), segment.unsafe_write(0, b"two")),
            ("token", segment.write(1, b"one", token), segment.write(1, b"two", token)),
        ):
            _, refused = await asyncio.gather(first, second, return_exceptions=True)
            assert isinstance(refused, TokenReused)
            assert f"another value was issued under this {of};" in str(refused)


async def test_a_register_is_settled_though_its_capture_was_forgotten_meanwhile(monkeypatch):
    """Another client decides it between the capture and the write: its value is the answer."""
    with turned(registers_memory=2):
        async with wormspace.connect("memory:") as client:
            segment, _ = await forgotten(client)
            capture = client.registers.capture

            async def then_another(name, start, stop, deadline):
                captured = await capture(name, start, stop, deadline)
                monkeypatch.setattr(client.registers, "capture", capture)
                other = (await segment.capture(1)).token
                await segment.write(1, b"another's", other)
                await forgotten(client)
                return captured

            monkeypatch.setattr(client.registers, "capture", then_another)
            assert await segment.settle(1, b"mine") == b"another's"
