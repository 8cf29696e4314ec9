"""Where a register is: a segment and an offset within a space."""

from __future__ import annotations

from typing import NamedTuple

from wormspace.errors import BadAddress
from wormspace.space.arguments import as_int

MOST_DIGITS = 19
"""Of a number below 2^62; Python refuses to read some thousands of them."""


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
        segment, _, offset = text.partition("/") if isinstance(text, str) else ("", "", "")
        for number in (segment, offset):
            if not (number.isascii() and number.isdecimal() and len(number) <= MOST_DIGITS):
                raise BadAddress(f"an address is SEGMENT/OFFSET, not {ascii(text)[:80]}")
        return cls(int(segment), int(offset))

    @classmethod
    def of(cls, position: int, size: int) -> Address:
        """The address at a global position, in a space whose segments all have `size`.

        Raises:
            BadAddress: the position is no number from 0, or the size none from 1.
        """
        for number, what, least in ((position, "a position", 0), (size, "a segment's size", 1)):
            if as_int(number, what) < least:
                raise BadAddress(f"{what} is {least} or more, not {number}")
        return cls(*divmod(position, size))

    def position(self, size: int) -> int:
        """The global position, in a space whose segments all have `size`."""
        return self.segment * size + self.offset
