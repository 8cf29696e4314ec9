"""The specification itself, step by step: what is said here, every implementation is held to."""

from __future__ import annotations

import asyncio

import pytest
from tests.register.played import error_of

from wormspace.errors import (
    AlreadyWritten,
    BadToken,
    CaptureLost,
    Closed,
    TokenReused,
    Trimmed,
    UsageError,
    ValueTooLarge,
)
from wormspace.registers.interface import Gap, RegisterState, RegistersTrimmed, ServerState, Wrote
from wormspace.registers.spec import (
    LOST,
    NOBODY,
    OTHER,
    WRITTEN,
    Cell,
    SpecRegisters,
    capture,
    read,
    write,
)
from wormspace.registers.token import Token

LOW, HIGH = b"1", b"2"
ARRAY = ("s", 3)


def test_a_capture_takes_a_register_from_a_lower_one_and_leaves_its_value():
    assert capture(Cell(), LOW) == (Cell(LOW), True)
    held = Cell(LOW, True, b"v")
    assert capture(held, HIGH) == (Cell(HIGH, True, b"v"), True)
    assert capture(held, LOW) == (held, False)
    assert capture(Cell(HIGH), LOW) == (Cell(HIGH), False)


@pytest.mark.parametrize(
    ("cell", "under", "after", "outcome"),
    [
        (Cell(), NOBODY, Cell(NOBODY, True, b"v"), WRITTEN),
        (Cell(LOW), NOBODY, Cell(LOW), LOST),
        (Cell(LOW), LOW, Cell(LOW, True, b"v"), WRITTEN),
        (Cell(LOW), HIGH, Cell(LOW, True, b"v"), WRITTEN),
        (Cell(HIGH), LOW, Cell(HIGH), LOST),
        (Cell(LOW, True, b"v"), LOW, Cell(LOW, True, b"v"), WRITTEN),
        (Cell(LOW, True, b"w"), LOW, Cell(LOW, True, b"w"), OTHER),
        (Cell(LOW, True, b"w"), HIGH, Cell(LOW, True, b"w"), OTHER),
        (Cell(HIGH, True, b"v"), LOW, Cell(HIGH, True, b"v"), LOST),
    ],
)
def test_a_write_decides_an_empty_register_whose_capture_stands(cell, under, after, outcome):
    assert write(cell, under, b"v") == (after, outcome)
    assert read(cell) == (cell.written, cell.value)


def spec() -> SpecRegisters:
    return SpecRegisters(10)


async def test_captures_are_of_their_range_and_say_what_is_written() -> None:
    registers = spec()
    assert registers.max_value == 10
    first = await registers.capture(ARRAY, 2, 6, 0.0)
    assert first.token == Token("s", 3, 2, 6, first.token.fence)
    assert first.written == {}
    for offset in (5, 2):
        await registers.write(ARRAY, first.token, offset, b"%d" % offset, 0.0)
    second = await registers.capture(ARRAY, 0, 5, 0.0)
    assert second.token == Token("s", 3, 0, 5, second.token.fence, ((2, 3),))
    assert second.written == {2: b"2"}
    assert second.token.fence > first.token.fence
    for offset, is_mine in [(1, False), (2, False), (3, False), (4, False), (5, True), (6, False)]:
        if first.token.covers(offset):
            assert await registers.holds(ARRAY, first.token, offset, 0.0) == is_mine
        else:
            with pytest.raises(BadToken):
                await registers.holds(ARRAY, first.token, offset, 0.0)
    assert await registers.holds(ARRAY, second.token, 0, 0.0)
    assert [await registers.holds(ARRAY, None, offset, 0.0) for offset in (0, 5, 6)] == [
        *(False, False, True)
    ]
    above = Token("s", 3, 0, 9, b"\xff")  # nobody captured above it
    assert await registers.holds(ARRAY, above, 0, 0.0)
    lost = registers.write(ARRAY, first.token, 4, b"4", 0.0)
    assert type(error_of(lost)) is CaptureLost
    assert str(error_of(lost)) == "s/3/4 was captured by another client"
    whole = await registers.capture(ARRAY, 0, 9, 0.0)
    assert whole.written == {2: b"2", 5: b"5"}
    assert (await registers.capture(("s", 4), 0, 9, 0.0)).written == {}


async def test_each_write_says_what_became_of_it() -> None:
    registers = spec()
    token = (await registers.capture(ARRAY, 0, 4, 0.0)).token
    await registers.write(ARRAY, token, 0, b"v" * 10, 0.0)
    await registers.write(ARRAY, token, 0, b"v" * 10, 0.0)
    other = registers.write(ARRAY, token, 0, b"w", 0.0)
    error = error_of(other)
    assert isinstance(error, AlreadyWritten)
    assert (str(error), error.value) == (
        "s/3/0 is already written, with another value", b"v" * 10,
    )  # fmt: skip
    theirs = (await registers.capture(ARRAY, 1, 2, 0.0)).token
    assert type(error_of(registers.write(ARRAY, token, 1, b"mine", 0.0))) is CaptureLost
    with pytest.raises(TokenReused, match=r"register 1 of .* another value under this token"):
        registers.write(ARRAY, token, 1, b"second", 0.0)
    await registers.write(ARRAY, theirs, 1, b"theirs", 0.0)
    taken = (await registers.capture(ARRAY, 0, 4, 0.0)).token
    await registers.write(ARRAY, taken, 1, b"theirs", 0.0)
    assert type(error_of(registers.write(ARRAY, taken, 1, b"other", 0.0))) is AlreadyWritten
    unsafe = registers.write(ARRAY, None, 2, b"v", 0.0)
    assert type(error_of(unsafe)) is CaptureLost
    await registers.write(ARRAY, None, 9, b"v", 0.0)
    for value, says in [(b"x" * 11, "a value of 11 bytes; 10 at most")]:
        with pytest.raises(ValueTooLarge, match=says):
            registers.write(ARRAY, taken, 3, value, 0.0)
    with pytest.raises(UsageError, match="a value is bytes, not str"):
        registers.write(ARRAY, taken, 3, "v", 0.0)  # type: ignore[arg-type]
    for segment_name, offset in [(ARRAY, 4), (("s", 4), 0)]:
        with pytest.raises(BadToken):
            registers.write(segment_name, taken, offset, b"v", 0.0)


async def test_what_is_written_is_read_and_nothing_else() -> None:
    registers = spec()
    for offset in (5, 1, 3):
        await registers.write(ARRAY, None, offset, b"%d" % offset, 0.0)
    await registers.capture(ARRAY, 0, 9, 0.0)
    assert [await registers.read_one(ARRAY, n, 0.0) for n in range(4)] == [None, b"1", None, b"3"]
    found = await registers.read(ARRAY, [(0, 3), (4, 6)], 0.0)
    assert list(found.items()) == [(1, b"1"), (5, b"5")]
    assert await registers.read(ARRAY, [(2, 3), (4, 5)], 0.0) == {}
    assert await registers.read_page(ARRAY, [(3, 4), (5, 6)], 0.0) == ({3: b"3", 5: b"5"}, 6)
    assert await registers.read(("s", 4), [(0, 9)], 0.0) == {}


async def test_a_trimmed_segment_name_is_gone_and_its_neighbours_are_not() -> None:
    registers = spec()
    for space, number in [("s", 2), ("s", 3), ("s", 4), ("s", 5), ("t", 3)]:
        await registers.write((space, number), None, 0, b"v", 0.0)
    token = (await registers.capture(ARRAY, 0, 4, 0.0)).token
    await registers.trim(ARRAY, 5, 0.0)
    for number in (3, 4):
        segment_name = ("s", number)
        says = f"segment {number} of space 's' was trimmed"
        for call in (
            registers.capture(segment_name, 0, 1, 0.0),
            registers.read(segment_name, [(0, 1)], 0.0),
            registers.inspect(segment_name, 0, 1, 0.0),
            registers.read_one(segment_name, 0, 0.0),
            registers.write(segment_name, None, 0, b"v", 0.0),
        ):
            with pytest.raises(Trimmed, match=says):
                await call
    with pytest.raises(Trimmed):
        await registers.holds(ARRAY, token, 0, 0.0)
    for segment_name in [("s", 2), ("s", 5), ("t", 3)]:
        assert await registers.read_one(segment_name, 0, 0.0) == b"v"
    await registers.trim(("s", 8), 9, 0.0)
    assert await registers.trims("s", 0, 99, 0.0) == ([(3, 5), (8, 9)], 99)
    assert await registers.trims("s", 4, 8, 0.0) == ([(3, 5)], 8)
    assert await registers.trims("s", 5, 8, 0.0) == ([], 8)
    assert await registers.trims("t", 0, 9, 0.0) == ([], 9)
    assert await registers.spaces(0.0) == ["s", "t"]
    await registers.trim(("a", 0), 1, 0.0)
    assert await registers.spaces(0.0) == ["a", "s", "t"]
    assert ("s", 3) not in registers._captures


async def heard(events) -> list:
    return [await anext(events) for _ in range(len(events._events))]


async def test_a_listener_hears_of_its_segment_names_once_each() -> None:
    registers = spec()
    events = registers.listen("s", 3, 5)
    for space, number in [("s", 2), ("s", 3), ("s", 4), ("s", 5), ("t", 3)]:
        await registers.write((space, number), None, 0, b"v", 0.0)
    await registers.write(ARRAY, None, 0, b"v", 0.0)
    assert await heard(events) == [Gap(), Wrote("s", 3, 0, b"v"), Wrote("s", 4, 0, b"v")]
    for first, stop in [(0, 3), (5, 6), (2, 4), (4, 9)]:
        await registers.trim(("s", first), stop, 0.0)
    await registers.trim(("t", 3), 4, 0.0)
    assert await heard(events) == [RegistersTrimmed("s", 2, 4), RegistersTrimmed("s", 4, 9)]
    await registers.close()
    with pytest.raises(Closed, match="the client was closed"):
        await anext(events)
    with pytest.raises(Closed, match="the client is closed"):
        registers.listen("s", 0, 1)
    for future in (
        registers.read_one(ARRAY, 0, 0.0),
        registers.write(ARRAY, None, 0, b"v", 0.0),
    ):
        assert type(error_of(future)) is Closed
    for call in (
        lambda: registers.capture(ARRAY, 0, 1, 0.0),
        lambda: registers.read(ARRAY, [(0, 1)], 0.0),
        lambda: registers.trim(ARRAY, 4, 0.0),
        lambda: registers.trims("s", 0, 1, 0.0),
        lambda: registers.spaces(0.0),
        lambda: registers.servers(0.0),
        lambda: registers.inspect(ARRAY, 0, 1, 0.0),
    ):
        with pytest.raises(Closed):
            await call()


async def test_it_shows_what_it_holds() -> None:
    registers = spec()
    token = (await registers.capture(ARRAY, 0, 9, 0.0)).token
    for offset in (4, 2, 7):
        await registers.write(ARRAY, token, offset, b"%d" % offset, 0.0)
    mine = token.fence.hex()
    assert await registers.inspect(ARRAY, 2, 7, 0.0) == {
        "spec": [RegisterState(n, mine, "-", True, b"%d" % n) for n in (2, 4)]
    }
    assert type(error_of(registers.write(ARRAY, None, 5, b"5", 0.0))) is CaptureLost
    shown = await registers.inspect(ARRAY, 5, 6, 0.0)
    assert shown == {"spec": [RegisterState(5, mine, "-", False, None)]}
    assert await registers.servers(0.0) == [ServerState("spec", 0, True, "", {"segments": 1})]
    assert asyncio.get_running_loop() is registers._loop
