"""Messages to bytes and back; what is not a message is refused, and is nothing worse."""

from typing import get_args

import msgspec
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from wormspace.paxos.messages import (
    Capture,
    Decided,
    Done,
    Promise,
    Read,
    RefusedWrite,
    Reject,
    Report,
    Row,
    SegmentTrimmed,
    Trim,
    Write,
    Written,
)
from wormspace.paxos.ranges import Range
from wormspace.wire import codec
from wormspace.wire import messages as wire
from wormspace.wire.frames import HEADER_BYTES

spaces = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
segments = st.integers(0, (1 << 62) - 1)
offsets = st.integers(0, (1 << 32) - 1)
bounds = st.integers(0, 1 << 32)
ballots = st.binary(min_size=16, max_size=16)
spans = st.lists(st.tuples(bounds, bounds), max_size=4)
values = st.binary(max_size=50)
rows = st.lists(st.builds(Row, offsets, ballots, values, st.booleans()), max_size=4)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)

requests = st.one_of(
    st.builds(Capture, spaces, segments, bounds, bounds, ballots),
    st.builds(
        Write,
        spaces,
        segments,
        ballots,
        st.lists(offsets, max_size=4),
        st.lists(values, max_size=4),
    ),
    st.builds(Read, spaces, segments, spans, st.booleans()),
    st.builds(Decided, spaces, segments, ballots, spans),
    st.builds(Trim, spaces, segments, segments),
    st.builds(wire.Listen, spaces, segments, segments),
    st.builds(wire.Unlisten, offsets),
    st.just(wire.Status()),
    st.builds(wire.Spaces, texts),
    st.builds(wire.Trims, spaces, segments, segments),
)
replies = st.one_of(
    st.builds(Promise, rows, st.integers(-1, 1 << 32)),
    st.builds(Reject, ballots),
    st.builds(Written, st.lists(st.builds(RefusedWrite, offsets, ballots), max_size=3)),
    st.builds(
        Report,
        rows,
        st.integers(-1, 1 << 32),
        st.lists(st.builds(Range, bounds, bounds, ballots), max_size=3),
    ),
    st.just(SegmentTrimmed()),
    st.just(Done()),
    st.builds(wire.Failed, texts, texts),
    st.builds(
        wire.Accepted, spaces, segments, ballots, st.lists(offsets), st.lists(values, max_size=3)
    ),
    st.builds(wire.TrimNotice, spaces, segments, segments),
    st.just(wire.Lagging()),
    st.builds(wire.Metrics, st.dictionaries(texts, st.integers(0, 1 << 60), max_size=3)),
    st.builds(wire.SpaceNames, st.lists(spaces, max_size=3)),
    st.builds(wire.Tombstones, st.lists(st.tuples(segments, segments), max_size=3), segments),
)
ids = st.integers(0, (1 << 63) - 1)
to_server = st.builds(wire.ToServer, ids, requests)
to_client = st.builds(wire.ToClient, ids, replies)


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        *((requests, kind) for kind in get_args(wire.ClientMessage)),
        *((replies, kind) for kind in get_args(wire.ServerMessage)),
    ],
    ids=lambda it: getattr(it, "__name__", ""),
)
def test_every_message_there_is_is_tried_here(made, kind):
    at_once = settings(phases=[Phase.generate], database=None, derandomize=True, max_examples=5000)
    assert find(made, lambda message: isinstance(message, kind), settings=at_once)


def body(message):
    return codec.encode(message)[HEADER_BYTES:]


@given(to_server)
def test_requests_come_back_as_they_went(message):
    assert codec.decode_request(body(message)) == message


@given(to_client)
def test_replies_come_back_as_they_went(message):
    assert codec.decode_reply(body(message)) == message


@given(to_server, st.data())
def test_a_truncated_message_is_none(message, data):
    raw = body(message)
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(codec.BadMessage):
        codec.decode_request(raw[:cut])


@given(to_server, st.binary(min_size=1, max_size=20))
def test_a_message_with_trailing_bytes_is_none(message, tail):
    with pytest.raises(codec.BadMessage):
        codec.decode_request(body(message) + tail)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_a_message_and_nothing_else(raw):
    for decode in (
        codec.decode_request,
        codec.decode_reply,
        codec.decode_hello,
        codec.decode_greeting,
    ):
        try:
            decode(raw)
        except codec.BadMessage:
            pass


@given(to_server, st.data())
def test_a_message_with_flipped_bytes_is_refused_or_still_within_bounds(message, data):
    raw = bytearray(body(message))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = codec.decode_request(bytes(raw))
    except codec.BadMessage:
        return
    assert decoded == codec.decode_request(body(decoded))


@pytest.mark.parametrize(
    "wrong",
    [
        [1, ["capture", "", 0, 0, 1, bytes(16)]],
        [1, ["capture", "x" * 256, 0, 0, 1, bytes(16)]],
        [1, ["capture", "s", -1, 0, 1, bytes(16)]],
        [1, ["capture", "s", 1 << 62, 0, 1, bytes(16)]],
        [1, ["capture", "s", 0, 0, (1 << 32) + 1, bytes(16)]],
        [1, ["capture", "s", 0, 0, 1, bytes(15)]],
        [1, ["capture", "s", 0, 0, 1, bytes(17)]],
        [1, ["capture", "s", 0, 0, 1]],
        [1, ["capture", "s", 0, 0, 1.5, bytes(16)]],
        [1, ["write", "s", 0, bytes(16), [1 << 32], [b""]]],
        [1, ["write", "s", 0, bytes(16), [0], ["text"]]],
        [1, ["read", "s", 0, [[0]]]],
        [1, ["no such thing"]],
        [-1, ["status"]],
        [1 << 63, ["status"]],
        [1, {}],
        ["x", ["status"]],
        [],
        {},
        None,
    ],
    ids=repr,
)
def test_what_is_out_of_bounds_is_refused_while_it_is_decoded(wrong):
    with pytest.raises(codec.BadMessage):
        codec.decode_request(msgspec.msgpack.encode(wrong))


@pytest.mark.parametrize("depth", [100, 5_000, 100_000])
def test_deep_nesting_is_refused(depth):
    with pytest.raises(codec.BadMessage):
        codec.decode_request(b"\x91" * depth + b"\xc0")


def test_a_request_that_can_be_answered_says_what_is_wrong_with_it():
    with pytest.raises(codec.BadRequest) as caught:
        codec.decode_request(msgspec.msgpack.encode([7, ["no such thing"]]))
    assert caught.value.id == 7
    assert str(caught.value) == "Invalid value 'no such thing' - at `$[1][0]`"


def test_what_is_wrong_is_told_at_some_length():
    for size, told in ((codec.MAX_PROBLEM, "x" * 200), (codec.MAX_PROBLEM + 1, "x" * 200 + "...")):
        assert codec._short(ValueError("x" * size)) == told
