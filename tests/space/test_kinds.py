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
        assert KNOBS.log_mark_size == 2
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
