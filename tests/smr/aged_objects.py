"""An object that has been through hundreds of turns, and is as empty as a new one.

Its commands have all failed, so the state is the one to begin with; but its log has dozens of
segments, clients have come and gone, and every size that rolls over is at its least meanwhile.
Suites that were written for new objects run on it unchanged: see `test_smr_aged.py`.
"""

from wormspace import Worm
from wormspace.smr import Sticky, Tuning
from wormspace.smr.calls import encode_calls
from wormspace.smr.records import (
    Batch,
    Member,
    Packet,
    SegmentMetadata,
    encode,
    encode_segment_metadata,
)

SEGMENTS = 60
REGISTERS = 8
LIFE_NS = 90 * 10**9
"""By the time of commands; sessions expire meanwhile, with knobs at their least."""

TUNING = Tuning(segment_size=REGISTERS)
DEAD = Member("of old", bytes(8), "127.0.0.1", 1)


class _Nobody:
    """Stands for a command that the state machine has not."""

    name = "unheard-of"


def batches(count):
    """What was in the log: packets of clients who retry, overlap, fall silent and come back."""
    raw = encode_calls([_Nobody], [()])
    for n in range(count):
        client = (n * n % 37).to_bytes(8, "big")
        packets = [Packet(client, n + 1, max(1, n - 3), raw, False)]
        if n % 3 == 0:
            packets.append(packets[0])  # a retry in the same register
        yield encode(Batch(LIFE_NS * n // count, n, packets))


async def age(worm, machine_type, name, strategy, segments=SEGMENTS):
    """Make an object of that name old, unless it is there already."""
    space = worm.space(name)
    if await space.tail():
        return
    declared = machine_type.declaration
    segment_metadata = SegmentMetadata(
        DEAD, [], [], strategy, declared.owner.__name__, declared.version, declared.shape
    )
    life = batches(segments * REGISTERS)
    for _ in range(segments):
        segment = await space.alloc(encode_segment_metadata(segment_metadata), REGISTERS)
        captured = await segment.capture()
        values = [next(life) for _ in range(REGISTERS)]
        await segment.write_range(0, values, captured.token)


REPLICATE = Worm.replicate


async def replicate(worm, machine_type, name, **options):
    """`Worm.replicate`, of an object that has aged first."""
    leadership = options.setdefault("leadership", Sticky(0.2))
    options.setdefault("tuning", TUNING)
    options.setdefault("timeout", 60.0)  # time is not what is tested
    await age(worm, machine_type, name, leadership.strategy)
    return await REPLICATE(worm, machine_type, name, **options)
