"""What this version writes is kept in tests/golden/log, and every later one reads it.

python tests/log/test_log_golden.py     writes what is not there yet: a format's files never change
"""

import asyncio
import json
import random
from pathlib import Path

import pytest

import wormspace
from wormspace.log.records import FORMAT, encode, read_batch, read_seal
from wormspace.space import Token

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "log"
FORMATS = sorted(int(path.stem.removeprefix("format-")) for path in GOLDEN.glob("format-*.json"))

BODIES = [b"", b"one", bytes(range(256))]


async def make(worm):
    """A log with something of everything: batches of all kinds, holes, seals, marks."""
    worm.nonce = lambda: b"0123456789abcdef"
    log = await worm.log("golden", segment_size=4)
    log._clock = log._appender._clock = lambda: 1_800_000_000.25
    for round_ in range(4):
        await log.append_many(BODIES, headers={"by": "ann", "é": "ü"}, streams=["s", f"t{round_}"])
        await log.append(b"plain %d" % round_)
    end = await log._segmented_log.end()
    await log._segmented_log.fill(end, end + 1)
    await log.append(b"behind a hole", streams=["s"])
    await log.trim(2)
    await log.cursor("billing").commit(1)
    await log.cursor("billing").commit(5)
    return log


async def dump(worm):
    """Every segment of every space: its number, size, metadata and values."""
    spaces = {}
    for name in await worm.spaces():
        space = worm.space(name)
        spaces[name] = segments = []
        for number in range(await space.tail()):
            segment = await space.segment(number)
            values = await segment.read_range()
            held = {i: value.hex() for i, value in enumerate(values) if value is not None}
            segments.append([segment.size, segment.metadata.hex(), held])
    return spaces


async def restore(worm, spaces):
    """Write it all as it was."""
    for name, segments in spaces.items():
        for size, metadata, held in segments:
            segment = await worm.space(name).alloc(bytes.fromhex(metadata), size)
            token: Token = (await segment.capture()).token
            for offset, value in held.items():
                await segment.write(int(offset), bytes.fromhex(value), token)


async def look(log):
    """All that its users see of it."""
    return {
        "first": await log.first(),
        "tail": await log.tail(),
        "entries": [
            [e.position, e.body.hex(), dict(e.headers), list(e.streams), e.time]
            for e in await log.read_range(await log.first())
        ],
        "streams": await log.streams(),
        "s": [e.position for e in await log.read_stream("s")],
        "cursor": await log.cursor("billing").load(),
    }


def connect():
    return wormspace.connect("memory:", rng=random.Random(7))


async def golden():
    async with connect() as worm:
        log = await make(worm)
        return {"format": FORMAT, "spaces": await dump(worm), "seen": await look(log)}


def test_this_format_is_kept():
    assert FORMAT in FORMATS, f"run python {Path(__file__).name}, and keep what it writes"


@pytest.mark.parametrize("number", FORMATS)
async def test_a_log_of_each_format_is_read_and_goes_on(number):
    kept = json.loads((GOLDEN / f"format-{number}.json").read_text())
    async with connect() as worm:
        await restore(worm, kept["spaces"])
        log = await worm.log("golden")
        assert await look(log) == kept["seen"]
        position = await log.append(b"and on", streams=["s"])
        assert position == kept["seen"]["tail"]
        assert (await log.read_stream("s"))[-1].position == position
        await log.cursor("billing").commit(6)
        assert await log.cursor("billing").load() == 6
        assert await log.trim(position) == position


async def test_what_is_written_is_what_was_kept_byte_by_byte():
    """A change of the format without a new number would be seen here."""
    kept = json.loads((GOLDEN / f"format-{FORMAT}.json").read_text())
    now = json.loads(json.dumps(await golden()))
    assert now["spaces"] == kept["spaces"]


def test_each_record_says_its_format():
    kept = json.loads((GOLDEN / f"format-{FORMAT}.json").read_text())
    records = 0
    for name, segments in kept["spaces"].items():
        for number, (size, _, held) in enumerate(segments):
            for offset, value in held.items():
                raw = bytes.fromhex(value)
                if raw and not name.endswith("/config"):
                    assert raw[1] == FORMAT
                    records += 1
                if raw and name == "golden" and int(offset) < size - 1:
                    slot = number * (size - 1) + int(offset)
                    assert encode(read_batch(raw, slot)) == raw
                elif raw and name == "golden":
                    assert encode(read_seal(raw, number, (number + 1) * (size - 1))) == raw
    assert records > 12


def main():
    path = GOLDEN / f"format-{FORMAT}.json"
    if path.exists():
        raise SystemExit(f"{path} is there; a format's file never changes: raise FORMAT")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asyncio.run(golden()), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
