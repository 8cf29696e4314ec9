"""What is fixed when a log is made, and how a log is told from what else has its name."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec

from wormspace.errors import UsageError, WrongKind
from wormspace.knobs import KNOBS
from wormspace.log.spaces import (
    CONFIG,
    ENTRIES,
    SEQUENCER,
    TRIM,
    check_log_name,
    metadata,
    require_ours,
    require_part,
)
from wormspace.malformed import MALFORMED
from wormspace.space import Client, Space
from wormspace.writer.segments import find_or_allocate

MIN_SEGMENT_SIZE = 4
MAX_SEGMENT_SIZE = 65_536
"""What is left of a segment is filled, register by register, when a sequencer takes over."""


class Config(msgspec.Struct, frozen=True, array_like=True):
    """What all who use a log agree on: the payload of the one segment of `<log>/config`.

    Attributes:
        segment_size: registers per segment of the entries, beside the seal.
        cell_size: registers per segment of the cells, beside the seal.
    """

    segment_size: Annotated[int, msgspec.Meta(ge=MIN_SEGMENT_SIZE, le=MAX_SEGMENT_SIZE)]
    cell_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEGMENT_SIZE)]


async def configure(client: Client, name: str, segment_size: int | None) -> Config:
    """What the log was made with; makes it if there is none of this name.

    Raises:
        BadAddress: no log can have this name.
        WrongKind: something else has it.
        NewerFormat: a newer wormspace made it.
        UsageError: the segments of the log have another size.
        Unavailable.
    """
    check_log_name(name)
    _check_segment_size(segment_size)
    parts = {f"{name}/{part}": part for part in (CONFIG, SEQUENCER, TRIM)} | {name: ENTRIES}
    looks = (require_ours(client.space(its), part) for its, part in parts.items())
    for trouble in await asyncio.gather(*looks, return_exceptions=True):
        if trouble is not None:
            raise trouble
    config = await _make_or_read(client.space(f"{name}/{CONFIG}"), segment_size)
    if segment_size is not None and segment_size != config.segment_size:
        raise UsageError(
            f"log {name!r} has segments of {config.segment_size} registers, not {segment_size}"
        )
    return config


def _check_segment_size(size: int | None) -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int)):
        raise UsageError(f"segment_size is an int, not {type(size).__name__}")
    if size is not None and not MIN_SEGMENT_SIZE <= size <= MAX_SEGMENT_SIZE:
        raise UsageError(
            f"a log's segments have {MIN_SEGMENT_SIZE} to {MAX_SEGMENT_SIZE} registers, not {size}"
        )


async def _make_or_read(space: Space, segment_size: int | None) -> Config:
    made = Config(segment_size or KNOBS.log_segment_size, KNOBS.log_cell_size)
    says = metadata(CONFIG, msgspec.msgpack.encode(made))
    segment, _ = await find_or_allocate(space, 0, says, 1)
    try:
        return msgspec.msgpack.decode(require_part(segment, CONFIG), type=Config)
    except MALFORMED as e:
        raise WrongKind(f"space {space.name!r} does not say how its log was made: {e}") from e
