"""Tokens as text, and the sets behind them."""

import base64
import itertools
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormspace import BadToken, Token
from wormspace.registers.spans import OffsetSet, as_spans

offset_sets = st.sets(st.integers(0, 60))
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


ballots = st.binary(min_size=16, max_size=16).filter(any)


@given(texts, st.integers(0, (1 << 62) - 1), ballots, offset_sets)
def test_a_token_is_one_word_that_reads_back(space, segment, ballot, taken):
    token = Token(space, segment, 0, 61, ballot, as_spans(sorted(taken)))
    text = str(token)
    assert text.split() == [text]
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert Token.parse(text) == token


@given(offset_sets)
def test_a_token_knows_what_is_free(taken):
    token = Token("s", 0, 10, 50, bytes(16), as_spans(sorted(o for o in taken if 10 <= o < 50)))
    free = set(range(10, 50)) - taken
    assert set(token.free()) == free
    assert list(token.free()) == sorted(free)
    for offset in range(65):
        assert token.is_free(offset) == (offset in free)
        assert token.covers(offset) == (10 <= offset < 50)


@given(offset_sets)
def test_spans_are_the_offsets_joined(offsets):
    spans = as_spans(sorted(offsets))
    assert {o for lo, hi in spans for o in range(lo, hi)} == offsets
    for (_, a), (b, _) in itertools.pairwise(spans):
        assert a < b


def forged(body):
    """A token's text with a right checksum around any body."""
    check = zlib.crc32(body).to_bytes(4, "big")
    return "worm1-" + base64.urlsafe_b64encode(check + body).decode().rstrip("=")


@pytest.mark.parametrize(
    "fields",
    [
        ["s", 0, 0, 1, b""],
        ["s", -1, 0, 1, bytes(16)],
        ["", 0, 0, 1, bytes(16)],
        ["s", 0, 0, 1 << 40, bytes(16)],
        ["s", 0, 0],
        {},
    ],
)
def test_a_token_with_a_right_checksum_and_wrong_fields_is_refused(fields):
    with pytest.raises(BadToken):
        Token.parse(forged(msgspec.msgpack.encode(fields)))


def test_a_token_whose_text_is_not_utf_8_is_refused():
    body = msgspec.msgpack.encode(["ss", 0, 0, 1, bytes(16)]).replace(b"ss", b"\xff\xfe")
    with pytest.raises(BadToken):
        Token.parse(forged(body))


@given(st.text(max_size=60))
def test_any_text_is_a_token_or_refused(text):
    for candidate in (text, "worm1-" + text):
        with pytest.raises(BadToken):
            Token.parse(candidate)


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 3000)), max_size=6),
    st.sets(st.integers(0, 9000), max_size=20),
    st.sets(st.integers(0, 9000), max_size=50),
)
def test_a_set_of_offsets_is_a_set(spans, singles, probes):
    offsets, model = OffsetSet(), set(singles)
    for offset in singles:
        offsets.add(offset)
    for lo, size in spans:
        offsets.add_span(lo, lo + size)
        model |= set(range(lo, lo + size))
    for probe in probes | singles | {0, 1023, 1024, 4095, 4096}:
        assert (probe in offsets) == (probe in model)
