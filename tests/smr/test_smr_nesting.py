"""How deep an encoded value is nested, whatever else is in it: each kind of byte is passed over."""

import pytest

from wormspace.smr.nesting import MAX_NESTING, is_nested_too_deep


def sized(first, width, count, content):
    return bytes([first]) + count.to_bytes(width, "big") + content


LEAVES = {
    "small numbers": [b"\x00", b"\x7f", b"\xe0", b"\xff"],
    "nothing and truth": [b"\xc0", b"\xc2", b"\xc3"],
    "numbers": [
        bytes([first]) + bytes([0x91]) * width
        for first, width in zip(range(0xCA, 0xD4), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8), strict=True)
    ],
    "short text": [b"\xa0", b"\xa1\x91", b"\xbf" + b"\x91" * 31],
    "text and bytes": [
        sized(first, width, size, b"\x91" * size)
        for first, width in ((0xC4, 1), (0xC5, 2), (0xC6, 4), (0xD9, 1), (0xDA, 2), (0xDB, 4))
        for size in (0, 1, 2, 200)
    ],
    "long text and bytes": [
        sized(first, width, 300, b"\x91" * 300)
        for first, width in ((0xC5, 2), (0xC6, 4), (0xDA, 2), (0xDB, 4))
    ],
    "extensions": [
        sized(first, width, size, b"\x05" + b"\x91" * size)
        for first, width in ((0xC7, 1), (0xC8, 2), (0xC9, 4))
        for size in (0, 1, 7, 200)
    ],
    "fixed extensions": [bytes([0xD4 + n]) + b"\x05" + b"\x91" * (1 << n) for n in range(5)],
    "empty": [b"\x90", b"\x80", sized(0xDC, 2, 0, b""), sized(0xDF, 4, 0, b"")],
}


def arrays(*members):
    """An array of these, in each way that it can be encoded."""
    content = b"".join(members)
    short = [bytes([0x90 + len(members)]) + content] if len(members) < 16 else []
    count = len(members)
    return [*short, sized(0xDC, 2, count, content), sized(0xDD, 4, count, content)]


def maps(*members):
    """A map of these, of keys and values in turn, in each way that it can be encoded."""
    content = b"".join(members)
    count = len(members) // 2
    short = [bytes([0x80 + count]) + content] if count < 16 else []
    return [*short, sized(0xDE, 2, count, content), sized(0xDF, 4, count, content)]


def is_as_deep(raw, depth):
    """Bytes behind the value do not count, and make it long enough to be looked at."""
    padded = raw + bytes(MAX_NESTING)
    return not is_nested_too_deep(padded, depth) and is_nested_too_deep(padded, depth - 1)


@pytest.mark.parametrize("kind", LEAVES)
def test_what_is_no_array_or_map_counts_nothing_and_is_passed_over(kind):
    for leaf in LEAVES[kind]:
        assert not is_nested_too_deep(leaf + bytes(20), 0)
        deep = b"\x91\x91\x00"
        for made in (*arrays(leaf, deep, leaf, deep), *maps(leaf, deep, b"\x00", leaf)):
            assert is_as_deep(made, 3), leaf.hex()
        for made in (*arrays(leaf, leaf), *maps(leaf, leaf, b"\x00", b"\x91\x00")):
            assert is_as_deep(made, 1 + (made[-2:] == b"\x91\x00"))


@pytest.mark.parametrize("count", [1, 2, 15, 16, 40])
def test_members_are_counted_so_what_comes_after_is_beside_and_not_within(count):
    for made in (*arrays(*[b"\x00"] * count), *maps(*[b"\x00"] * (2 * count))):
        assert is_as_deep(made, 1)
        assert is_as_deep(b"\x92" + made + made, 2)
        assert is_as_deep(b"\x91" + b"\x92" + made + b"\x91\x91\x00", 4)
    for made in arrays(*[b"\x91\x00"] * count):
        assert is_as_deep(made, 2)


def test_it_is_as_deep_as_the_deepest_however_many_are_closed_before():
    level = b"\x00"
    for depth in range(1, 20):
        level = b"\x93\x00" + level + b"\x91\x00"
        assert is_as_deep(level, depth + 1)


def test_the_most_is_what_is_said_everywhere():
    within = b"\x91" * MAX_NESTING + b"\xc0"
    assert not is_nested_too_deep(within)
    assert is_nested_too_deep(b"\x91" + within)
    assert not is_nested_too_deep(b"")
    assert not is_nested_too_deep(b"\x91" * MAX_NESTING), "so few bytes cannot be deeper"
    assert is_nested_too_deep(b"\x91" * (MAX_NESTING + 1))
    assert not is_nested_too_deep(b"\x91\x91", 2)
    assert is_nested_too_deep(b"\x91\x91\x91", 2)
    assert not is_nested_too_deep(b"\xdb\xff\xff\xff\xff" + b"\x91" * 200), "it is cut short"
    assert not is_nested_too_deep(b"\xc1" * 200)
