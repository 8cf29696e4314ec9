"""A space says what it is, and who takes it for something else is refused."""

import random

import pytest

import wormspace
from wormspace.errors import NewerFormat, WrongKind
from wormspace.knobs import KNOBS, Knobs, drawn, least, turned
from wormspace.space import read_stamp, require_stamp, stamp


def test_a_stamp_is_read_back():
    made = stamp("log", 3, b"payload")
    assert read_stamp(made) == ("log", 3, b"payload")
    assert require_stamp(made, "log", 3, "orders") == (3, b"payload")


@pytest.mark.parametrize("metadata", [b"", b"what it is for", b"\x00wor", b"\x00wor\x01\x09log"])
def test_metadata_of_a_users_own_is_no_stamp(metadata):
    assert read_stamp(metadata) is None
    with pytest.raises(WrongKind, match="no log"):
        require_stamp(metadata, "log", 1, "orders")


def test_somebody_else_and_somebody_newer_are_refused():
    with pytest.raises(WrongKind, match="it is a smr"):
        require_stamp(stamp("smr", 1), "log", 1, "orders")
    with pytest.raises(NewerFormat, match="update"):
        require_stamp(stamp("log", 2), "log", 1, "orders")


def test_knobs_are_turned_for_a_block_and_put_back():
    shipped = Knobs()
    with turned(**least()):
        assert KNOBS.log_cell_size == 2
    assert shipped == KNOBS
    with pytest.raises(TypeError, match="no knob"), turned(no_such_thing=1):
        pass
    for seed in range(100):
        for name, value in drawn(random.Random(seed)).items():
            assert least()[name] <= value <= getattr(shipped, name)


async def test_a_client_that_uses_ever_new_spaces_does_not_keep_them_all():
    with turned(space_handles_kept=3):
        async with wormspace.connect("memory:") as worm:
            first = worm.space("0")
            await first.alloc()
            for n in range(10):
                await worm.space(str(n)).tail()
            assert len(worm._spaces) == 3
            assert worm.space("9") is worm.space("9")
            assert await worm.space("0").tail() == await first.tail() == 1


def test_a_stamp_has_the_bytes_that_are_stored_for_ever():
    made = stamp("log", 3, b"pay")
    assert made == b"\x00wor\x03\x03logpay"
    assert stamp("x" * 255, 255) == b"\x00wor\xff\xff" + b"x" * 255
    assert read_stamp(stamp("x" * 255, 255)) == ("x" * 255, 255, b"")
    for size in range(len(made)):
        expected = ("log", 3, made[9:size]) if size >= 9 else None
        assert read_stamp(made[:size]) == expected
    assert read_stamp(stamp("", 1)) == ("", 1, b"")
    assert read_stamp(made.replace(b"log", b"l\xf6g")) is None
    for i in range(4):
        assert read_stamp(made[:i] + b"?" + made[i + 1 :]) is None


def test_older_formats_are_read_and_each_refusal_says_what_to_do():
    assert require_stamp(stamp("log", 1, b"old"), "log", 2, "orders") == (1, b"old")
    for metadata, error, says in [
        (b"", WrongKind, "space 'orders' is no log: its segments are of the user's own making"),
        (stamp("smr", 9), WrongKind, "is no log, it is a smr; choose another name"),
        (stamp("log", 3), NewerFormat, "log 'orders' has format 3, .* reads up to 2: update it"),
    ]:
        with pytest.raises(error, match=says):
            require_stamp(metadata, "log", 2, "orders")
