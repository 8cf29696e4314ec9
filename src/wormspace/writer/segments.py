"""Segments that are used one after the other: whoever needs the next one allocates it."""

from __future__ import annotations

from wormspace.errors import NotAllocated
from wormspace.runtime.deadlines import left
from wormspace.space import Segment, Space, Token


async def find_or_allocate(
    space: Space, number: int, metadata: bytes, size: int, timeout: float | None = None
) -> tuple[Segment, bool]:
    """A segment, and whether this call has allocated it; those below are allocated, too.

    It may have been somebody else, for something else: the caller looks at the metadata.

    Raises:
        Trimmed: it was allocated, and is garbage.
        Unavailable.
    """
    deadline = space.client.deadline(timeout)
    while True:
        try:
            return await space.segment(number, timeout=left(deadline)), False
        except NotAllocated:
            made = await space.alloc(metadata, size, timeout=left(deadline))
            if made.number == number:
                return made, True


class CapturedSegment:
    """A segment of which this process has captured what is free.

    Attributes:
        next: the next register to write.
    """

    __slots__ = ("next", "segment", "token")

    def __init__(self, segment: Segment, token: Token, following: int = 0) -> None:
        self.segment = segment
        self.token = token
        self.next = following

    @property
    def is_full(self) -> bool:
        """Whether all its registers have been given out."""
        return self.next >= self.segment.size
