"""What spaces and clients do, on every implementation: alloc, trim, lists, deadlines, close."""

import asyncio

import pytest

from wormspace import (
    Address,
    BadAddress,
    Closed,
    NotAllocated,
    PartialWrite,
    Trimmed,
    UsageError,
    ValueTooLarge,
)

# ---------------------------------------------------------------------------- alloc and check


async def test_segments_are_numbered_from_zero_without_gaps(space):
    for number in range(5):
        segment = await space.alloc(b"%d" % number, size=number + 1)
        assert (segment.number, segment.size, segment.metadata) == (
            number,
            number + 1,
            b"%d" % number,
        )
        assert segment.space is space or segment.space.name == space.name


async def test_a_segment_has_1024_registers_unless_told(space):
    assert (await space.alloc()).size == 1024


async def test_concurrent_allocations_get_different_numbers(space, other):
    theirs = other.space(space.name)
    both = [s.alloc(b"%d" % i, size=1) for i in range(4) for s in (space, theirs)]
    segments = await asyncio.gather(*both)
    assert sorted(s.number for s in segments) == list(range(8))
    for s in segments:
        assert await space.check(s.number) == s.metadata


async def test_another_client_finds_what_was_allocated(space, other):
    await space.alloc(b"payload", size=7)
    same = await other.space(space.name).segment(0)
    assert (same.size, same.metadata) == (7, b"payload")
    assert await other.space(space.name).check(0) == b"payload"


async def test_what_is_not_allocated_is_an_error(space):
    for number in (0, 5):
        with pytest.raises(NotAllocated) as missing:
            await space.segment(number)
        assert isinstance(missing.value, UsageError)
        with pytest.raises(NotAllocated):
            await space.check(number)
        with pytest.raises(NotAllocated):
            await space.trim(number)
    with pytest.raises(NotAllocated):
        await space.trim_prefix(1)


@pytest.mark.parametrize("number", [-1, -(1 << 40), 1 << 62, 1 << 80])
async def test_a_segment_number_out_of_bounds_is_misuse(space, number):
    await space.alloc(size=1)
    with pytest.raises(BadAddress):
        await space.segment(number)
    with pytest.raises(UsageError):
        await space.trim(number)
    assert await space.tail() == 1


@pytest.mark.parametrize("size", [0, -1, (1 << 32) - 1, 1 << 40])
async def test_a_size_out_of_bounds_is_misuse(space, size):
    with pytest.raises(BadAddress):
        await space.alloc(size=size)
    assert await space.tail() == 0


async def test_the_largest_segment_works_to_its_last_register(space):
    segment = await space.alloc(size=(1 << 32) - 2)
    last = segment.size - 1
    token = (await segment.capture()).token
    await segment.write(last, b"last", token)
    assert await segment.read_range(last - 1, last + 1) == [None, b"last"]
    assert await space.check(0) == b""


async def test_metadata_that_is_not_bytes_is_misuse_and_allocates_nothing(space):
    with pytest.raises(UsageError):
        await space.alloc("text")
    assert await space.tail() == 0


async def test_metadata_larger_than_a_value_is_refused(space):
    with pytest.raises(ValueTooLarge):
        await space.alloc(bytes(2 << 20))


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128])
async def test_a_name_out_of_bounds_is_misuse(worm, name):
    with pytest.raises(BadAddress):
        worm.space(name)


async def test_names_are_any_text(worm, name):
    spaces = [f"{name}/{odd}" for odd in ("a b", "ümlaut", "\n", "x" * 200)]
    for i, odd in enumerate(spaces):
        await worm.space(odd).alloc(b"%d" % i, size=1)
    for i, odd in enumerate(spaces):
        assert await worm.space(odd).check(0) == b"%d" % i
    assert set(spaces) <= set(await worm.spaces())


async def test_tail_counts_the_segments_ever_allocated(space, other):
    assert await space.tail() == 0
    for count in range(1, 20):
        await space.alloc(size=1)
        if count in (1, 2, 3, 7, 19):
            assert await space.tail() == count
            assert await other.space(space.name).tail() == count
    await space.trim_prefix(5)
    assert await space.tail() == 19


async def test_spaces_are_listed_in_order_and_apart(worm, other, name):
    names = [f"{name}-{letter}" for letter in "cab"]
    for each in names:
        await worm.space(each).alloc(size=1)
    listed = await other.spaces()
    assert listed == sorted(listed)
    assert set(names) <= set(listed)
    assert f"{name}-never" not in listed
    segment = await worm.space(names[0]).segment(0)
    await segment.unsafe_write(0, b"here")
    assert await (await worm.space(names[1]).segment(0)).read(0) is None


async def test_addresses_print_parse_and_count():
    assert str(Address(3, 17)) == "3/17"
    assert Address.parse("3/17") == Address(3, 17)
    assert Address.of(35, 16) == Address(2, 3)
    assert Address(2, 3).position(16) == 35
    for wrong in ("", "3", "3/", "/3", "a/b", "-1/3", "1/2/3"):
        with pytest.raises(BadAddress):
            Address.parse(wrong)


# ---------------------------------------------------------------------------- trim


async def try_every_access(segment, token):
    """The outcome of one call of each kind on a segment, by name."""
    calls = {
        "capture": segment.capture(),
        "capture of one": segment.capture(0),
        "write": segment.write(1, b"v", token),
        "unsafe write": segment.unsafe_write(2, b"v"),
        "read": segment.read(0),
        "read of an empty one": segment.read(3),
        "read range": segment.read_range(),
        "settle": segment.settle(0),
    }
    outcomes = await asyncio.gather(*calls.values(), return_exceptions=True)
    return dict(zip(calls, outcomes, strict=True))


def kinds(outcomes):
    """The types of outcomes, by name."""
    return {what: type(outcome) for what, outcome in outcomes.items()}


async def test_after_a_trim_every_access_is_trimmed(space, segment, other):
    token = (await segment.capture()).token
    await segment.write(0, b"v", token)
    same = await other.space(space.name).segment(0)
    await segment.trim()
    for handle in (segment, same):
        outcomes = await try_every_access(handle, token)
        assert kinds(outcomes) == dict.fromkeys(outcomes, Trimmed)
    for client_space in (space, other.space(space.name)):
        with pytest.raises(Trimmed):
            await client_space.segment(0)
        with pytest.raises(Trimmed):
            await client_space.check(0)


async def test_after_a_trim_a_range_write_is_trimmed_in_each_register(segment):
    token = (await segment.capture()).token
    await segment.trim()
    with pytest.raises(PartialWrite) as refused:
        await segment.write_range(0, [b"a", b"b"], token)
    assert [type(r) for r in refused.value.results] == [Trimmed, Trimmed]


async def test_trimming_again_is_harmless(space, segment, other):
    await segment.trim()
    await space.trim(0)
    await other.space(space.name).trim(0)


async def test_a_trim_leaves_the_neighbours_alone(space):
    segments = [await space.alloc(size=2) for _ in range(3)]
    for s in segments:
        await s.unsafe_write(0, b"%d" % s.number)
    await space.trim(1)
    assert await segments[0].read(0) == b"0"
    assert await segments[2].read(0) == b"2"
    assert (await space.alloc(size=1)).number == 3


async def test_a_prefix_trim_takes_all_below(space, other):
    segments = [await space.alloc(size=1) for _ in range(6)]
    await space.trim_prefix(4)
    for s in segments[:4]:
        with pytest.raises(Trimmed):
            await s.read(0)
    for s in segments[4:]:
        assert await s.read(0) is None
    assert await space.head() == 4
    assert await other.space(space.name).head() == 4
    assert await space.tail() == 6


async def test_a_prefix_trim_beyond_the_tail_trims_nothing(space):
    segment = await space.alloc(size=1)
    with pytest.raises(NotAllocated):
        await space.trim_prefix(2)
    assert await segment.read(0) is None
    assert await space.head() == 0


async def test_prefix_trims_may_overlap_and_repeat(space):
    for _ in range(5):
        await space.alloc(size=1)
    await space.trim(1)
    for stop in (0, 3, 2, 3, 5):
        await space.trim_prefix(stop)
    assert (await space.head(), await space.tail()) == (5, 5)
    assert (await space.alloc(size=1)).number == 5


async def test_the_head_of_an_untrimmed_space_is_zero(space):
    assert await space.head() == 0
    await space.alloc(size=1)
    assert await space.head() == 0


# ---------------------------------------------------------------------------- administration


async def test_servers_say_who_they_are_and_how_they_do(door, worm):
    states = await worm.servers(timeout=2)
    assert len(states) == door.servers
    reachable = [s for s in states if s.reachable]
    assert len(reachable) == door.servers - (door.kind == "one-down")
    for state in reachable:
        assert state.metrics
        assert state.trouble == ""
    for state in states:
        if not state.reachable:
            assert state.trouble
    assert {s.partition for s in states} == ({0, 1} if door.kind == "partitions" else {0})


async def test_inspect_shows_what_each_server_holds(door, segment):
    await segment.write(3, b"seen", (await segment.capture(3)).token)
    held = await segment.inspect(timeout=2)
    assert held
    silent = [server for server, states in held.items() if states is None]
    assert len(silent) == (door.kind == "one-down")
    views = [states for states in held.values() if states]
    assert len(views) * 2 > len(held) - len(silent)
    values = [s.value for states in views for s in states if s.offset == 3]
    assert set(values) <= {b"seen", None}  # a server may not have taken it in yet
    assert values.count(b"seen") * 2 > len(held) - 2 * len(silent)


# ---------------------------------------------------------------------------- deadlines and close


@pytest.mark.parametrize("timeout", [0, -1])
async def test_a_deadline_that_is_not_positive_is_misuse(worm, space, segment, timeout):
    token = (await segment.capture()).token
    for call in (
        segment.read(0, timeout=timeout),
        segment.capture(timeout=timeout),
        segment.write(0, b"v", token, timeout=timeout),
        space.alloc(timeout=timeout),
        space.tail(timeout=timeout),
        worm.spaces(timeout=timeout),
    ):
        with pytest.raises(UsageError):
            await call


async def test_every_call_takes_a_deadline(worm, space):
    segment = await space.alloc(size=3, timeout=9)
    token = (await segment.capture(0, 2, timeout=9)).token
    await segment.write(0, b"v", token, timeout=9)
    await segment.write_range(1, [b"w"], token, timeout=9)
    await segment.unsafe_write(2, b"u", timeout=9)
    assert await segment.read(0, timeout=9) == b"v"
    assert await segment.read_range(timeout=9) == [b"v", b"w", b"u"]
    assert await segment.settle(0, timeout=9) == b"v"
    await segment.inspect(timeout=9)
    await space.check(0, timeout=9)
    await space.tail(timeout=9)
    await space.head(timeout=9)
    await worm.spaces(timeout=9)
    await worm.servers(timeout=9)
    await segment.trim(timeout=9)
    await space.trim(0, timeout=9)
    await space.trim_prefix(1, timeout=9)


async def test_a_closed_client_refuses_every_call(door, name):
    worm = await door.open()
    space = worm.space(name)
    segment = await space.alloc(size=4)
    await space.alloc(size=1)
    token = (await segment.capture()).token
    await worm.close()
    await worm.close()
    calls = {
        "alloc": space.alloc(),
        "segment": space.segment(7),
        "tail": space.tail(),
        "head": space.head(),
        "trim": space.trim(0),
        "trim prefix": space.trim_prefix(1),
        "spaces": worm.spaces(),
        "servers": worm.servers(),
        "inspect": segment.inspect(),
    }
    outcomes = await asyncio.gather(*calls.values(), return_exceptions=True)
    outcomes = await try_every_access(segment, token) | dict(zip(calls, outcomes, strict=True))
    assert kinds(outcomes) == dict.fromkeys(outcomes, Closed)
    with pytest.raises(Closed):
        await anext(space.listen())
