"""Batches and seals: what they say of their entries, and what is no batch and no seal."""

import itertools
import random

import msgspec
import pytest
from slots import batch_of

from wormspace.errors import NewerFormat, UsageError
from wormspace.log.messages import Ask, Ping, read_question
from wormspace.log.messages import encode as encode_message
from wormspace.log.records import (
    FORMAT,
    BatchRecord,
    Entry,
    Group,
    Latest,
    SealRecord,
    encode,
    payload_size,
    read_batch,
    read_seal,
    refuse_newer,
)


def random_batch(seed):
    """A batch, and the headers and streams of each of its entries."""
    rng = random.Random(seed)
    first, many = rng.randrange(50), rng.randrange(1, 6)
    bodies = [bytes(rng.randrange(5)) for _ in range(many)]
    if rng.random() < 0.3:
        return BatchRecord(first, 100, b"w", 1, 1500, bodies, (), {}), [({}, ())] * many
    of, groups = [], []
    while len(of) < many:
        count = rng.randrange(1, many - len(of) + 1)
        headers = rng.choice(({}, {"k": "value", "other": ""}))
        streams = tuple(rng.sample("abc", rng.randrange(3)))
        groups.append(Group(count, headers, streams))
        of += [(headers, streams)] * count
    links = {name: (3, 1) for _, streams in of for name in streams}
    return BatchRecord(first, 100, b"w", 1, 1500, bodies, tuple(groups), links), of


def test_a_batch_says_what_its_entries_are():
    for seed in range(40):
        batch, of = random_batch(seed)
        entries = [
            Entry(position, body, headers, streams, 1.5)
            for position, body, (headers, streams) in zip(
                itertools.count(batch.first), batch.bodies, of, strict=False
            )
        ]
        assert read_batch(encode(batch), 4) == batch
        assert batch.end == entries[-1].position + 1
        assert batch.entries() == entries
        for start in range(batch.first - 2, batch.end + 2):
            assert batch.entries(start) == [e for e in entries if e.position >= start]
            for stop in range(start, batch.end + 3):
                wanted = [e for e in entries if start <= e.position < stop]
                assert batch.entries(start, stop) == wanted
        sizes = [payload_size(e.body, e.headers) for e in entries]
        assert batch.size == sum(sizes)
        assert list(batch.befores()) == [
            (entry.position, 100 + before)
            for entry, before in zip(entries, itertools.accumulate(sizes, initial=0), strict=False)
        ]
        assert batch.last_of_streams() == {n: e.position for e in entries for n in e.streams}


def test_an_entry_counts_with_its_headers():
    assert payload_size(b"", {}) == 0
    assert payload_size(b"four", {}) == 4
    assert payload_size(b"four", {"key": "value", "k": ""}) == 4 + 8 + 1


def streamed(counts, streams, links, bodies=2):
    groups = tuple(Group(count, {}, (name,)) for count, name in zip(counts, streams, strict=True))
    return encode(BatchRecord(0, 0, b"w", 1, 0, [b"x"] * bodies, groups, links))


@pytest.mark.parametrize(
    ("raw", "is_one"),
    [
        (streamed((2,), "s", {"s": (9, 8)}), True),
        (streamed((1, 1), "st", {"s": (9,), "t": ()}), True),
        (streamed((2,), "s", {"s": (10,)}), False),
        (streamed((2,), "s", {"s": (9, 11)}), False),
        (streamed((1,), "s", {"s": ()}), False),
        (streamed((3,), "s", {"s": ()}), False),
        (streamed((2,), "s", {}), False),
        (streamed((2,), "s", {"t": ()}), False),
        (streamed((2,), "s", {"s": (), "t": ()}), False),
        (streamed((), "", {"s": ()}), False),
        (streamed((), "", {}), True),
        (b"garbage", False),
        (b"", False),
    ],
)
def test_a_batch_agrees_with_itself_and_its_place_or_is_passed_over(raw, is_one, caplog):
    caplog.set_level("INFO")
    assert (read_batch(raw, 10) is not None) == is_one
    assert ("slot 10 holds" in caplog.text) != is_one


def test_a_seal_that_cannot_be_true_says_that_all_must_be_looked_for(caplog):
    caplog.set_level("INFO")
    good = SealRecord(30, {"s": Latest(9, (31, 3)), "t": Latest(2, ())}, 4)
    assert read_seal(encode(good), 3, 32) == good
    assert caplog.text == ""
    for raw in (encode(good), b"garbage", b"-"):
        assert read_seal(raw, 3, 31) == SealRecord(31, {}, 31)
    assert caplog.text.count("of segment 3") == 3
    assert read_seal(encode(good), 3, 20) == SealRecord(20, {}, 20)


@pytest.mark.parametrize("read", [lambda raw: read_batch(raw, 1), lambda raw: read_seal(raw, 1, 9)])
def test_what_a_newer_format_wrote_is_refused_and_nothing_else(read):
    for version in (FORMAT + 1, FORMAT + 99):
        with pytest.raises(NewerFormat, match=f"format {version}, .* reads up to {FORMAT}"):
            read(encode([version, "what", "ever"]))
        with pytest.raises(NewerFormat):
            refuse_newer(encode([version]))
    for other in ([], [FORMAT], [FORMAT - 1, 0], [FORMAT + 100], ["4"], {4: 4}, 4, None):
        read(encode(other))
        refuse_newer(encode(other))
    refuse_newer(b"\xc1")


def test_a_log_whose_batches_have_headers_has_the_bytes_of_both():
    batch = batch_of(0, 3)
    headed = msgspec.structs.replace(batch, groups=(Group(3, {"ab": "c"}, ()),))
    plain = msgspec.structs.replace(batch, groups=())
    assert headed.size == plain.size + 9


def test_a_question_agrees_with_itself():
    for counts, named, is_one in (
        ((1, 2), (), True),
        ((1, 2), ((0, {"s": 0}), (1, {"s": 0, "t": 1})), True),
        ((1, 2), ((2, {}),), False),
        ((1, 2), ((-1, {}),), False),
        ((1, 2), ((1, {"s": 2}),), False),
        ((1, 2), ((1, {"s": 0, "t": -1}),), False),
        ((1, 2), ((0, {"s": 1}),), False),
        ((), ((0, {}),), False),
    ):
        ask = Ask(counts, 5, named)
        if is_one:
            assert read_question(encode_message(ask)) == ask
        else:
            with pytest.raises(UsageError, match="of no entry that it has"):
                read_question(encode_message(ask))
    assert read_question(encode_message(Ping())) == Ping()
    with pytest.raises(UsageError, match="no question"):
        read_question(b"\xc1")
