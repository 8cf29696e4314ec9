"""Bytes from outside that are no message end nothing but themselves, whoever decodes them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from wormspace.errors import ProtocolViolation, UsageError
from wormspace.log.messages import read_question
from wormspace.log.records import FORMAT, read_batch, read_seal
from wormspace.smr.records import decode_record, decode_segment_metadata
from wormspace.space import Address, stamp
from wormspace.space.metadata import Metadata
from wormspace.tx import deciding
from wormspace.tx.operations import decode_operation

SOURCE = Path(__file__).parents[2] / "src" / "wormspace"
ALONE = re.compile(r"except [^:]*msgspec\.")
KNOWN = {
    "smr/calls.py": 2,  # one kind of call each, and then all others
}


def test_whoever_catches_what_decoding_raises_catches_all_of_it():
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        count = len(ALONE.findall(path.read_text()))
        if count:
            found[str(path.relative_to(SOURCE))] = count
    assert found == KNOWN, "use wormspace.malformed.MALFORMED"


DEEP = b"\x91" * 100_000 + b"\xc0"
ENDS = {
    "deep": DEEP,
    "a deep surplus": b"\x9f" + b"\x00" * 14 + DEEP,
    "a deep member": b"\x92\x05" + DEEP,
    "no text": b"\x93\xa2\xff\xfe\xa2\xff\xfe\xa2\xff\xfe",
    "keys that are no text": b"\x81\xa2\xff\xfe\x01",
    "nothing": b"",
}
VOTE = b"\xc1\x01"
READERS = {
    "a vote": lambda raw: deciding.decode(VOTE + raw),
    "a register of an object": lambda raw: decode_record(raw, Address(0, 0)),
    "a metadata": lambda raw: decode_segment_metadata(stamp("smr", 1, raw), "s"),
    "a segment's metadata": Metadata.decode,
    "a batch": lambda raw: read_batch(raw, 0),
    "a seal": lambda raw: read_seal(raw, 0, 1),
    "a question to a sequencer": read_question,
    "an operation on a store": decode_operation,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_record_is_told_as_such(reader, end):
    try:
        READERS[reader](ENDS[end])
    except (ProtocolViolation, UsageError):
        pass


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("first", [[FORMAT], [5], [2], ["yes"]])
def test_a_record_with_a_deep_surplus_is_told_as_such(reader, first):
    raw = msgspec.msgpack.encode([*first, *[0] * 12])
    try:
        READERS[reader](raw[:1] + raw[1:-1] + DEEP)
    except (ProtocolViolation, UsageError):
        pass
