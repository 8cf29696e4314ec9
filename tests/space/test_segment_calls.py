"""What a segment asks its registers for, and what it makes of their answers."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.space.made import Made, now

from wires import simulated
from wormspace import BadAddress, BadToken, Token, Unavailable, UsageError
from wormspace.addresses import METADATA
from wormspace.errors import AlreadyWritten, CaptureLost, PartialWrite, TokenReused
from wormspace.runtime.retrying import PAUSE_S, Race
from wormspace.space.segment import Segment
from wormspace.space.space import NO_STOP


def segment_of(made: Made, number: int = 3, size: int = 8) -> Segment:
    made.fill(number, size)
    return Segment(made.space, number, size, b"what for")


def token_of(segment: Segment) -> Token:
    return Token("s", segment.number, 0, segment.size, b"b" * 16)


def whats(made: Made) -> list[tuple]:
    return [what for _, *what in made.asked()]


def test_a_capture_is_of_all_of_one_or_of_a_range():
    async def work():
        made = Made()
        segment = segment_of(made)
        for given, asked in [((), (0, 8)), ((2,), (2, 3)), ((7,), (7, 8)), ((2, 8), (2, 8))]:
            captured = await segment.capture(*given, timeout=2)
            assert (captured.token.start, captured.token.stop) == asked
            assert whats(made) == [["capture", 3, *asked]]
        for given, says in [
            ((8,), "offset 8 is outside segment s/3, which has 8 registers"),
            ((-1,), "offset -1 is outside"),
            ((2, 9), r"\[2:9\] is outside"),
            ((-1, 4), r"\[-1:4\] is outside"),
            ((4, 3), r"\[4:3\] is outside"),
            ((4, 4), r"\[4:4\] is no register to capture"),
            (("1",), "start is an int, not str"),
            ((1, "2"), "stop is an int, not str"),
        ]:
            with pytest.raises(BadAddress, match=says):
                await segment.capture(*given)
        with pytest.raises(UsageError, match="stop needs a start"):
            await segment.capture(None, 3)
        assert made.asked() == []
        assert set(made.deadlines) == {2.0}

    simulated(work)


def test_a_write_goes_as_it_is_or_is_refused_at_the_door():
    async def work():
        made = Made()
        segment = segment_of(made)
        token = token_of(segment)
        for offset in (0, 7):
            await segment.write(offset, b"v", token, timeout=2)
            await segment.write(offset, bytearray(b"w"), token)
            await segment.unsafe_write(offset, b"x", timeout=3)
            await segment.unsafe_write(offset, memoryview(b"y"))
            assert whats(made) == [
                ["write", 3, offset, value] for value in (b"v", b"w", b"x", b"y")
            ]
        assert made.deadlines == [2.0, 5.0, 3.0, 5.0] * 2
        for offset in (-1, 8, 1.0, True, "0"):
            for call in (
                lambda at: segment.write(at, b"v", token),
                lambda at: segment.unsafe_write(at, b"v"),
                segment.read,
                segment.settle,
                lambda at: segment.holds(token, at),
            ):
                with pytest.raises(BadAddress):
                    await call(offset)
        for value in ("v", 1, None):
            for call in (
                lambda what: segment.write(0, what, token),
                lambda what: segment.unsafe_write(0, what),
                lambda what: segment.settle(0, what),
            ):
                with pytest.raises(UsageError, match="a value is bytes, not"):
                    await call(value)
        with pytest.raises(BadToken, match=r"Token.parse reads its text"):
            await segment.write(0, b"v", str(token))
        assert made.asked() == []

    simulated(work)


def test_each_register_of_a_range_is_written_and_has_its_own_fate():
    async def work():
        made = Made()
        segment = segment_of(made)
        token = token_of(segment)
        assert await segment.write_range(2, [b"a", bytearray(b"b"), b"c"], token, timeout=2) is None
        assert whats(made) == [["write", 3, 2, b"a"], ["write", 3, 3, b"b"], ["write", 3, 4, b"c"]]
        assert made.deadlines == [2.0] * 3
        await segment.write_range(8, [], token)
        write = made.write

        def refusing(segment_name, given, offset, value, deadline):
            if offset == 1:
                raise TokenReused("not again")
            return write(segment_name, given, offset, value, deadline)

        made.write = refusing
        made.errors = [None, CaptureLost("stolen")]
        with pytest.raises(PartialWrite) as caught:
            await segment.write_range(0, [b"0", b"1", b"2", b"3"], token)
        assert [type(result) for result in caught.value.results] == [
            type(None),
            TokenReused,
            CaptureLost,
            type(None),
        ]
        assert str(caught.value) == (
            "2 of 4 writes from s/3/0 on did not succeed; the first: not again"
        )
        made.errors = [CaptureLost("stolen"), ZeroDivisionError("a fault of ours")]
        with pytest.raises(ZeroDivisionError):
            await segment.write_range(2, [b"2", b"3"], token)
        made.asked()
        for values, says in [
            (b"abc", "values is a sequence of bytes, not one bytes"),
            ("abc", "values is a sequence of bytes, not one str"),
            (memoryview(b"abc"), "not one memoryview"),
            (5, "values is a sequence of bytes, not int"),
            ([b"a", "b"], "a value is bytes, not str"),
        ]:
            with pytest.raises(UsageError, match=says):
                await segment.write_range(0, values, token)
        for start, count in [(6, 3), (8, 1), (-1, 1), (9, 0)]:
            with pytest.raises(BadAddress, match="is outside segment s/3"):
                await segment.write_range(start, [b"v"] * count, token)
        with pytest.raises(BadToken):
            await segment.write_range(0, [b"v"], None)
        assert made.asked() == []

    simulated(work)


def test_what_is_read_is_a_value_for_each_register():
    async def work():
        made = Made()
        segment = segment_of(made)
        made.fill(3, 8, 1, 2, 7)
        asked = []

        async def read(segment_name, spans, deadline):
            asked.append((segment_name, spans, deadline - now()))
            return made._values(segment_name, spans)

        made.read = read
        values = [None, b"1", b"2", None, None, None, None, b"7"]
        assert await segment.read_range(timeout=2) == values
        assert await segment.read_range(2, 5) == values[2:5]
        assert await segment.read_range(6) == values[6:]
        assert await segment.read_range(4, 4) == await segment.read_range(8) == []
        assert asked == [
            (("s", 3), [(0, 8)], 2.0),
            (("s", 3), [(2, 5)], 5.0),
            (("s", 3), [(6, 8)], 5.0),
        ]
        for start, stop in [(0, 9), (-1, 3), (3, 2)]:
            with pytest.raises(BadAddress):
                await segment.read_range(start, stop)
        assert [await segment.read(n, timeout=4) for n in range(8)] == values
        assert whats(made) == [["one", 3, n] for n in range(8)]
        assert made.deadlines[-1] == 4.0
        assert len(asked) == 3

    simulated(work)


def test_settling_returns_what_is_decided_whoever_decides_it():
    async def work():
        made = Made()
        segment = segment_of(made)
        assert await segment.settle(1, b"mine", timeout=2) == b"mine"
        assert whats(made) == [["capture", 3, 1, 2], ["write", 3, 1, b"mine"]]
        assert await segment.settle(1) == b"mine"
        assert whats(made) == [["capture", 3, 1, 2]]
        assert await segment.settle(2) == b""
        assert made.held[3][2] == b""
        assert made.deadlines == [2.0, 2.0, 5.0, 5.0, 5.0]
        made.asked()
        made.errors = [None, CaptureLost("stolen"), None, CaptureLost("stolen")]
        assert await segment.settle(4, b"mine") == b"mine"
        assert len(made.asked()) == 6
        assert 0 < now() < 0.01
        made.errors = [None, AlreadyWritten("theirs", b"x")]
        assert await segment.settle(5, b"mine") == b"x"
        made.errors = [None, CaptureLost("stolen")] * 10_000
        began = now()
        with pytest.raises(Unavailable, match=r"settling s/3/6: other clients captured it again"):
            await segment.settle(6, b"mine", timeout=1)
        assert now() == pytest.approx(began + 1)

    simulated(work)


def test_whether_a_capture_stands_is_asked_with_its_token():
    async def work():
        made = Made()
        segment = segment_of(made)
        token, asked = token_of(segment), []

        async def holds(segment_name, given, offset, deadline):
            asked.append((segment_name, given, offset, deadline - now()))
            return offset == 7

        made.holds = holds
        assert await segment.holds(token, 7, timeout=2)
        assert not await segment.holds(token, 0)
        assert asked == [(("s", 3), token, 7, 2.0), (("s", 3), token, 0, 5.0)]
        with pytest.raises(BadToken):
            await segment.holds("worm1-x", 0)
        assert len(asked) == 2

    simulated(work)


def test_a_segment_is_inspected_trimmed_and_listened_to_alone():
    async def work():
        made = Made()
        segment = segment_of(made)
        asked = []

        async def inspect(segment_name, start, stop, deadline):
            asked.append((segment_name, start, stop, deadline - now()))
            return {}

        made.inspect = inspect
        assert await segment.inspect(timeout=2) == {}
        await segment.inspect(2, 5)
        assert asked == [(("s", 3), 0, 8, 2.0), (("s", 3), 2, 5, 5.0)]
        with pytest.raises(BadAddress):
            await segment.inspect(0, 9)
        for start, listened in [(0, ()), (5, (5,))]:
            stream = segment.listen(*listened)
            assert (stream._start, stream._stop) == ((3, start), 4)
            await stream.close()
        for number in range(3):
            made.fill(number, 1)
        made.asked()
        await segment.trim(timeout=3)
        assert whats(made)[-1] == ["trim", 3, 4, None]
        assert made.deadlines[-1] == 3.0
        assert repr(segment) == "<Segment s/3 of 8 registers>"
        assert (segment.metadata, made.held[3][METADATA] != b"") == (b"what for", True)
        assert NO_STOP > 4

    simulated(work)


def test_each_pause_of_a_race_may_be_twice_as_long_up_to_a_tenth_and_to_the_deadline():
    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0
            return b

    async def work():
        race, pauses = Race(Longest(), "racing", 0.5), []
        while now() < 0.5:
            began = asyncio.get_running_loop().time()
            await race.pause()
            pauses.append(asyncio.get_running_loop().time() - began)
        expected = [min(PAUSE_S[1], PAUSE_S[0] * 2**n) for n in range(9)]
        assert pauses[:-1] == pytest.approx(expected[: len(pauses) - 1])
        assert sum(pauses) == pytest.approx(0.5)
        times = len(pauses) + 1
        with pytest.raises(Unavailable, match=rf"racing: other clients .* \({times} times\)"):
            await race.pause()

    simulated(work)
