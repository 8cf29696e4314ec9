"""What a segment's registers do, on every implementation: capture, write, read, settle."""

import asyncio

import pytest

from wormspace import (
    AlreadyWritten,
    BadAddress,
    BadToken,
    CaptureLost,
    PartialWrite,
    RaceLost,
    Token,
    TokenReused,
    UsageError,
    ValueTooLarge,
)

MAX_VALUE = 1 << 20

# ---------------------------------------------------------------------------- capture


async def test_a_capture_of_fresh_registers_finds_nothing_written(segment):
    captured = await segment.capture()
    assert captured.written == {}
    assert (captured.token.start, captured.token.stop) == (0, 8)
    assert list(captured.token.free()) == list(range(8))


async def test_a_capture_names_the_segment_it_is_for(segment):
    token = (await segment.capture(2, 5)).token
    assert (token.space, token.segment) == (segment.space.name, segment.number)
    assert [token.covers(i) for i in (1, 2, 4, 5)] == [False, True, True, False]


async def test_a_capture_of_one_register_covers_just_that_one(segment):
    token = (await segment.capture(3)).token
    assert (token.start, token.stop) == (3, 4)
    await segment.write(3, b"v", token)
    with pytest.raises(BadToken):
        await segment.write(4, b"v", token)


async def test_a_capture_says_what_is_written_with_values_and_what_is_free(segment):
    token = (await segment.capture()).token
    await segment.write_range(1, [b"one", b"two"], token)
    await segment.write(5, b"five", token)
    captured = await segment.capture()
    assert dict(captured.written) == {1: b"one", 2: b"two", 5: b"five"}
    assert captured.token.taken == ((1, 3), (5, 6))
    assert list(captured.token.free()) == [0, 3, 4, 6, 7]


async def test_a_later_capture_steals_and_the_first_holders_write_is_refused(segment, other):
    mine = (await segment.capture()).token
    same = await other.space(segment.space.name).segment(segment.number)
    theirs = (await same.capture(0, 4)).token
    assert theirs.fence > mine.fence
    with pytest.raises(CaptureLost) as lost:
        await segment.write(0, b"mine", mine)
    assert isinstance(lost.value, RaceLost)
    await same.write(0, b"theirs", theirs)
    assert await segment.read(0) == b"theirs"


async def test_stealing_a_part_leaves_the_rest_to_its_holder(segment):
    whole = (await segment.capture()).token
    await segment.capture(2, 4)
    await segment.write(1, b"v1", whole)
    await segment.write(4, b"v4", whole)
    for stolen in (2, 3):
        with pytest.raises(CaptureLost):
            await segment.write(stolen, b"v", whole)
    assert await segment.read_range(0, 5) == [None, b"v1", None, None, b"v4"]


async def test_a_wide_capture_supersedes_narrow_ones(segment):
    narrow = [(await segment.capture(i)).token for i in range(3)]
    wide = (await segment.capture()).token
    for i, token in enumerate(narrow):
        with pytest.raises(CaptureLost):
            await segment.write(i, b"narrow", token)
    await segment.write_range(0, [b"wide"] * 3, wide)


async def test_a_captured_register_is_still_empty(segment):
    await segment.capture()
    assert await segment.read(0) is None


async def test_capturing_does_not_change_what_is_written(segment):
    token = (await segment.capture(0)).token
    await segment.write(0, b"first", token)
    for _ in range(3):
        assert (await segment.capture(0)).written[0] == b"first"
    assert await segment.read(0) == b"first"


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (0, 9), (8, 9), (5, 3), (3, 3), (8, None)])
async def test_a_capture_outside_the_segment_or_of_nothing_is_misuse(segment, start, stop):
    with pytest.raises(BadAddress):
        await segment.capture(start, stop)


# ---------------------------------------------------------------------------- write


async def test_what_is_written_is_read(segment, other):
    token = (await segment.capture()).token
    await segment.write(0, b"value", token)
    assert await segment.read(0) == b"value"
    same = await other.space(segment.space.name).segment(segment.number)
    assert await same.read(0) == b"value"


async def test_an_empty_value_is_not_an_empty_register(segment, other):
    token = (await segment.capture()).token
    await segment.write(2, b"", token)
    assert await segment.read(2) == b""
    assert await segment.read(3) is None
    assert await segment.read_range(1, 4) == [None, b"", None]
    same = await other.space(segment.space.name).segment(segment.number)
    assert (await same.capture()).written == {2: b""}


async def test_the_same_write_again_is_harmless(segment):
    token = (await segment.capture()).token
    for _ in range(3):
        await segment.write(1, b"v", token)
    assert await segment.read(1) == b"v"


async def test_the_same_write_again_is_harmless_from_another_client_too(segment, other):
    token = (await segment.capture()).token
    await segment.write(1, b"v", token)
    same = await other.space(segment.space.name).segment(segment.number)
    await same.write(1, b"v", Token.parse(str(token)))


async def test_a_second_value_under_one_token_is_refused(segment):
    token = (await segment.capture()).token
    first = asyncio.ensure_future(segment.write(0, b"first", token))
    second = asyncio.ensure_future(segment.write(0, b"second", token))
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    refused = [o for o in outcomes if o is not None]
    assert len(refused) == 1
    assert isinstance(refused[0], TokenReused | AlreadyWritten)
    assert await segment.read(0) == (b"first" if outcomes[0] is None else b"second")


async def test_a_second_value_after_a_write_that_lost_its_capture_is_token_reuse(segment):
    token = (await segment.capture()).token
    await segment.capture()
    with pytest.raises(CaptureLost):
        await segment.write(0, b"first", token)
    with pytest.raises(TokenReused):
        await segment.write(0, b"second", token)


async def test_another_value_for_a_written_register_is_refused_and_told(segment):
    token = (await segment.capture()).token
    await segment.write(0, b"first", token)
    with pytest.raises(AlreadyWritten):
        await segment.write(0, b"second", token)
    with pytest.raises(AlreadyWritten) as refused:
        await segment.write(0, b"second", (await segment.capture()).token)
    assert refused.value.value == b"first"
    assert isinstance(refused.value, RaceLost)
    with pytest.raises(RaceLost):  # stolen, and written: which of the two is told is a detail
        await segment.write(0, b"third", token)
    assert await segment.read(0) == b"first"


async def test_writing_what_a_taken_register_holds_anyway_succeeds(segment):
    await segment.write(0, b"v", (await segment.capture()).token)
    await segment.write(0, b"v", (await segment.capture()).token)


async def test_a_token_does_not_serve_another_segment(space, segment):
    token = (await segment.capture()).token
    next_one = await space.alloc(size=8)
    with pytest.raises(BadToken):
        await next_one.write(0, b"v", token)
    assert await next_one.read(0) is None


async def test_a_token_does_not_serve_another_space(worm, segment, name):
    elsewhere = await worm.space(f"{name}-elsewhere").alloc(size=8)
    with pytest.raises(BadToken):
        await elsewhere.write(0, b"v", (await segment.capture()).token)


async def test_the_largest_value_is_taken_and_a_larger_one_refused(segment):
    token = (await segment.capture()).token
    await segment.write(0, bytes(MAX_VALUE), token)
    assert await segment.read(0) == bytes(MAX_VALUE)
    with pytest.raises(ValueTooLarge) as refused:
        await segment.write(1, bytes(MAX_VALUE + 1), token)
    assert isinstance(refused.value, UsageError)
    with pytest.raises(ValueTooLarge):
        await segment.unsafe_write(1, bytes(MAX_VALUE + 1))
    await segment.write(1, b"fits", token)  # the refused one left no trace


@pytest.mark.parametrize("offset", [-1, 8, 1 << 32, 1 << 40])
async def test_no_call_reaches_outside_the_segment(segment, offset):
    token = (await segment.capture()).token
    for call in (
        segment.write(offset, b"v", token),
        segment.unsafe_write(offset, b"v"),
        segment.read(offset),
        segment.settle(offset),
        segment.write_range(offset, [b"v"], token),
        segment.read_range(min(0, offset), offset + 1),
        segment.inspect(min(0, offset), offset + 1),
    ):
        with pytest.raises(BadAddress):
            await call


async def test_a_value_that_is_not_bytes_is_misuse(segment):
    token = (await segment.capture()).token
    for wrong in ("text", ["list"], 7, None, True):
        with pytest.raises(UsageError):
            await segment.write(0, wrong, token)
        with pytest.raises(UsageError):
            await segment.unsafe_write(0, wrong)
        with pytest.raises(UsageError):
            await segment.write_range(0, [b"fine", wrong], token)
    await segment.write(0, bytearray(b"bytes"), token)
    assert await segment.read(0) == b"bytes"


# ---------------------------------------------------------------------------- write_range


async def test_a_range_is_written_in_one_call(segment):
    token = (await segment.capture()).token
    await segment.write_range(2, [b"a", b"b", b"c"], token)
    assert await segment.read_range() == [None, None, b"a", b"b", b"c", None, None, None]


async def test_a_range_of_nothing_is_nothing(segment):
    token = (await segment.capture()).token
    await segment.write_range(2, [], token)
    assert await segment.read_range(2, 2) == []


async def test_each_register_of_a_range_has_a_fate_of_its_own(segment):
    token = (await segment.capture()).token
    await segment.write(1, b"already", token)
    await segment.capture(3)
    with pytest.raises(PartialWrite) as partial:
        await segment.write_range(0, [b"v0", b"v1", b"v2", b"v3"], token)
    results = partial.value.results
    assert results[0] is None
    assert isinstance(results[1], AlreadyWritten)
    assert results[2] is None
    assert isinstance(results[3], CaptureLost)
    assert await segment.read_range(0, 4) == [b"v0", b"already", b"v2", None]


async def test_a_range_beyond_the_token_is_written_as_far_as_it_covers(segment):
    token = (await segment.capture(0, 2)).token
    with pytest.raises(PartialWrite) as partial:
        await segment.write_range(1, [b"in", b"out"], token)
    assert partial.value.results[0] is None
    assert isinstance(partial.value.results[1], BadToken)
    assert await segment.read_range(0, 3) == [None, b"in", None]


async def test_a_range_larger_than_a_message_arrives_whole(space):
    segment = await space.alloc(size=3000)
    token = (await segment.capture()).token
    values = [b"%d" % i * 50 for i in range(3000)]
    await segment.write_range(0, values, token)
    assert await segment.read_range() == values
    captured = await segment.capture()
    assert len(captured.written) == 3000
    assert captured.token.taken == ((0, 3000),)


# ---------------------------------------------------------------------------- unsafe write


async def test_an_unsafe_write_needs_no_capture(segment):
    await segment.unsafe_write(0, b"v")
    assert await segment.read(0) == b"v"
    await segment.unsafe_write(0, b"v")
    assert (await segment.capture()).written == {0: b"v"}


async def test_an_unsafe_write_to_a_captured_register_is_refused(segment):
    await segment.capture(0)
    with pytest.raises(CaptureLost):
        await segment.unsafe_write(0, b"v")
    assert await segment.settle(0, b"settled") == b"settled"


async def test_a_second_unsafe_value_is_refused(segment):
    await segment.unsafe_write(0, b"first")
    with pytest.raises((AlreadyWritten, TokenReused)):
        await segment.unsafe_write(0, b"second")
    assert await segment.read(0) == b"first"


# ---------------------------------------------------------------------------- read


async def test_an_empty_register_reads_as_none(segment):
    assert await segment.read(0) is None
    assert await segment.read_range() == [None] * 8


async def test_many_reads_at_once_each_get_their_own(segment):
    token = (await segment.capture()).token
    await segment.write_range(0, [b"%d" % i for i in range(4)], token)
    values = await asyncio.gather(*(segment.read(i % 8) for i in range(64)))
    assert values == [b"%d" % (i % 8) if i % 8 < 4 else None for i in range(64)]


async def test_many_writes_at_once_all_arrive(segment, space):
    segment = await space.alloc(size=400)
    token = (await segment.capture()).token
    await asyncio.gather(*(segment.write(i, b"%d" % i, token) for i in range(400)))
    assert await segment.read_range() == [b"%d" % i for i in range(400)]


# ---------------------------------------------------------------------------- settle


async def test_settling_an_empty_register_decides_it(segment):
    token = (await segment.capture()).token
    assert await segment.settle(0, b"nobody came") == b"nobody came"
    with pytest.raises(CaptureLost):
        await segment.write(0, b"late", token)
    assert await segment.read(0) == b"nobody came"
    assert await segment.settle(1) == b""


async def test_settling_a_written_register_says_what_it_holds(segment):
    await segment.write(0, b"v", (await segment.capture(0)).token)
    assert await segment.settle(0) == b"v"
    await segment.unsafe_write(1, b"")
    assert await segment.settle(1, b"other") == b""


# ---------------------------------------------------------------------------- tokens


async def test_a_token_handed_over_as_text_writes(segment, other):
    text = str((await segment.capture()).token)
    assert text.isascii()
    assert text.split() == [text]
    same = await other.space(segment.space.name).segment(segment.number)
    await same.write(6, b"by the other", Token.parse(text))
    assert await segment.read(6) == b"by the other"


async def test_a_token_that_travelled_still_names_what_was_taken(segment, other):
    await segment.write(0, b"v", (await segment.capture()).token)
    token = (await segment.capture()).token
    same = await other.space(segment.space.name).segment(segment.number)
    parsed = Token.parse(f"  {token}\n")
    assert parsed == token
    with pytest.raises(AlreadyWritten):
        await same.write(0, b"w", parsed)


async def test_a_damaged_token_is_refused(segment):
    text = str((await segment.capture()).token)
    damaged = [text[:-1], text[1:], text[:20], "", "worm1-", "worm1-!!!!", "worm2-" + text[6:]]
    damaged += [
        text[:i] + ("A" if text[i] != "A" else "B") + text[i + 1 :] for i in range(6, len(text))
    ]
    for wrong in damaged:
        try:
            parsed = Token.parse(wrong)
        except BadToken:
            continue
        assert parsed == Token.parse(text)  # only the padding bits of the last letter differ


# ---------------------------------------------------------------------------- holds


async def test_without_a_token_it_is_asked_whether_a_register_was_ever_captured(segment):
    await segment.unsafe_write(1, b"without a capture")
    await segment.capture(2, 4)
    assert [await segment.holds(None, i) for i in (0, 1, 2, 3, 4)] == [
        *(True, True, False, False, True)
    ]


async def test_of_the_captures_of_a_register_each_has_a_higher_fence_than_the_one_before(
    segment, other
):
    same = await other.space(segment.space.name).segment(segment.number)
    fences = [
        (await where.capture(0, stop)).token.fence
        for stop, where in enumerate((segment, same, same, segment, segment), 1)
    ]
    assert fences == sorted(set(fences))


async def test_a_capture_stands_until_somebody_captures_the_register(segment, other):
    token = (await segment.capture()).token
    assert await segment.holds(token, 0)
    await segment.write(0, b"v", token)
    assert await segment.holds(token, 0)
    same = await other.space(segment.space.name).segment(segment.number)
    await same.capture(2, 4)
    assert [await segment.holds(token, i) for i in (1, 2, 3, 4)] == [True, False, False, True]


async def test_asking_whether_a_capture_stands_takes_nothing_from_its_holder(segment, other):
    token = (await segment.capture()).token
    same = await other.space(segment.space.name).segment(segment.number)
    assert await same.holds(Token.parse(str(token)), 5)
    await segment.write(5, b"v", token)


async def test_a_token_says_nothing_about_registers_it_does_not_cover(segment):
    token = (await segment.capture(0, 2)).token
    with pytest.raises(BadToken):
        await segment.holds(token, 2)
    with pytest.raises(BadAddress):
        await segment.holds(token, 8)


async def test_what_fills_several_pages_is_read_and_captured_whole(segment, other):
    """Reports are cut into pages of about a mebibyte; values half that size take several."""
    values = [bytes([i]) * 600_000 for i in range(6)]
    token = (await segment.capture()).token
    await segment.write_range(0, values, token)
    same = await other.space(segment.space.name).segment(segment.number)
    assert await same.read_range() == [*values, None, None]
    captured = await same.capture()
    assert dict(captured.written) == dict(enumerate(values))
    assert captured.token.taken == ((0, 6),)
