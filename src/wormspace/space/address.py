"""Where a register is: a segment and an offset within a space."""

from __future__ import annotations

from typing import NamedTuple

from wormspace.errors import BadAddress


class Address(NamedTuple):
    """A register's place in its space; addresses order as the registers do."""

    segment: int
    offset: int

    def __str__(self) -> str:
        return f"{self.segment}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that prints as `text`.

        Raises:
            BadAddress: it is not SEGMENT/OFFSET.
        """
        segment, _, offset = text.partition("/")
        if not (segment.isdecimal() and offset.isdecimal()):
            raise BadAddress(f"an address is SEGMENT/OFFSET, not {text!r}")
        return cls(int(segment), int(offset))

    @classmethod
    def of(cls, position: int, size: int) -> Address:
        """The address at a global position, in a space whose segments all have `size`."""
        return cls(*divmod(position, size))

    def position(self, size: int) -> int:
        """The global position, in a space whose segments all have `size`."""
        return self.segment * size + self.offset


def check_name(name: str) -> str:
    """A space's name, if it can be one.

    Raises:
        BadAddress: it is empty or too long.
    """
    if not 0 < len(name.encode()) <= 255:
        raise BadAddress("a space name has 1 to 255 bytes")
    return name
