"""Where a register is: the name of a space, the number of a segment, an offset in it.

What these may be is said here once, for all who speak of registers: the interface and each
implementation of it, the wire, the servers.  Two offsets of every segment are reserved.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

SpaceName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
SegmentNumber: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
SegmentBound: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Offset: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Bound: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]
Span: TypeAlias = tuple[Bound, Bound]
"""The offsets [lo, hi)."""

SegmentName: TypeAlias = tuple[str, int]
"""(space, number): a segment of registers that are captured, listened to and trimmed together."""

MAX_BOUND = 1 << 32
"""No span ends above it."""

MAX_OFFSETS = MAX_BOUND - 2
"""Data registers have offsets below this; the two above are reserved."""

METADATA = MAX_OFFSETS
"""The offset of the register that says what the segment is for."""

TRIM = MAX_OFFSETS + 1
"""The offset of the register whose decision makes the segment garbage."""
