"""Frames: whatever way the bytes come in, the same bodies come out."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormspace.wire.frames import HEADER_BYTES, FrameDecoder, FrameTooLarge, frame

bodies = st.lists(st.binary(max_size=200), max_size=8)


def stream(parts):
    return b"".join(map(frame, parts))


@given(bodies)
def test_fed_one_byte_at_a_time(parts):
    decoder = FrameDecoder()
    out = [body for byte in stream(parts) for body in decoder.feed(bytes([byte]))]
    assert out == parts


@given(bodies, st.data())
def test_fed_in_pieces_of_any_size(parts, data):
    raw = stream(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    decoder, out = FrameDecoder(), []
    for lo, hi in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        out += decoder.feed(raw[lo:hi])
    assert out == parts


@given(bodies, st.binary(min_size=1, max_size=50))
def test_a_truncated_frame_is_kept_and_nothing_is_made_of_it(parts, last):
    cut = frame(last)[:-1]
    decoder = FrameDecoder()
    assert decoder.feed(stream(parts) + cut) == parts
    assert decoder.feed(frame(last)[-1:]) == [last]


def test_an_empty_body_is_a_body():
    assert FrameDecoder().feed(frame(b"") + frame(b"x")) == [b"", b"x"]


@pytest.mark.parametrize("announced", [101, 1 << 30, (1 << 32) - 1])
def test_a_header_above_the_limit_is_refused_before_its_body(announced):
    decoder = FrameDecoder(limit=100)
    header = announced.to_bytes(HEADER_BYTES, "big")
    for byte in header[:-1]:
        assert decoder.feed(bytes([byte])) == []
    with pytest.raises(FrameTooLarge, match=str(announced)):
        decoder.feed(header[-1:])


def test_the_largest_frame_passes():
    assert FrameDecoder(limit=100).feed(frame(bytes(100))) == [bytes(100)]


def test_a_frame_in_the_smallest_pieces_takes_no_more_memory_than_it_has_bytes():
    decoder, size = FrameDecoder(), 1 << 16
    decoder.feed((1 << 20).to_bytes(HEADER_BYTES, "big"))
    tracemalloc.start()
    try:
        for at in range(0, size, 2):
            decoder.feed(bytes((at & 255, 1)))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.held == HEADER_BYTES + size
    assert taken < 2 * size


def test_a_large_frame_in_small_pieces_is_joined_once():
    """Pieces are not joined at each one: a hostile trickle costs little."""
    body = bytes(range(256)) * 4096
    raw = frame(body)
    decoder, out = FrameDecoder(), []
    for at in range(0, len(raw), 1000):
        out += decoder.feed(raw[at : at + 1000])
    assert out == [body]
