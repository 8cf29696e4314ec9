"""What a listener is told."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from wormspace.space.address import Address


class Written(msgspec.Struct, frozen=True):
    """A register is decided, and this is its value."""

    address: Address
    value: bytes


class Allocated(msgspec.Struct, frozen=True):
    """A segment was allocated, with this size and payload."""

    segment: int
    size: int
    metadata: bytes


class SegmentsTrimmed(msgspec.Struct, frozen=True):
    """Segments [segment, stop) were trimmed; nothing more comes of them."""

    segment: int
    stop: int


Event: TypeAlias = Written | Allocated | SegmentsTrimmed
