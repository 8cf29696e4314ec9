"""A log at a glance."""

from __future__ import annotations

import msgspec

from wormspace.log.reading import Reader


class Info(msgspec.Struct, frozen=True):
    """A log at a glance.

    Attributes:
        first: the first position that is still there.
        tail: one past the last position that is written.
        bytes: of all entries from `first` on.
        oldest, newest: when the first and the last entry were appended, seconds since 1970.
    """

    name: str
    first: int
    tail: int
    bytes: int
    segment_size: int
    oldest: float | None
    newest: float | None


async def look(name: str, reader: Reader) -> Info:
    """What there is to say of a log.

    Raises:
        Trimmed, Unavailable.
    """
    first, tail = (await reader.trim_point.find()).position, await reader.tail()
    oldest = await reader.first_batch(first)
    newest = await reader.last_batch(await reader.segmented_log.end())
    size = 0
    if oldest and newest:
        begin = next(before for position, before in oldest.befores() if position >= first)
        size = newest[1].before + newest[1].size - begin
    return Info(
        name,
        first,
        tail,
        size,
        reader.segmented_log.size,
        oldest.time_ms / 1000.0 if oldest else None,
        newest[1].time_ms / 1000.0 if newest else None,
    )
