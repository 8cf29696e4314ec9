"""What was written under a ballot, so that no second value ever is.

The rule "one value per ballot and register" is kept by three: an acceptor refuses a second value,
but only if it has seen the first; a token names what was written before it; and this is the
third, the client's memory of what it issued itself, for as long as it holds the token.
"""

from __future__ import annotations

_CHUNK_BITS = 12
_MASK = (1 << _CHUNK_BITS) - 1


class OffsetSet:
    """A growing set of offsets: one bit each, in chunks of 4096."""

    __slots__ = ("_chunks",)

    def __init__(self) -> None:
        self._chunks: dict[int, bytearray] = {}

    def add(self, offset: int) -> None:
        """Put `offset` into the set."""
        chunk = self._chunks.get(offset >> _CHUNK_BITS)
        if chunk is None:
            chunk = self._chunks[offset >> _CHUNK_BITS] = bytearray(1 << _CHUNK_BITS - 3)
        at = offset & _MASK
        chunk[at >> 3] |= 1 << (at & 7)

    def __contains__(self, offset: int) -> bool:
        chunk = self._chunks.get(offset >> _CHUNK_BITS)
        if chunk is None:
            return False
        at = offset & _MASK
        return bool(chunk[at >> 3] & 1 << (at & 7))


class Issued:
    """What this client has written under one ballot in one array.

    `open` are the writes whose outcome is not known, with their values: only those very values
    may be sent again.  `settled` are the registers known to be decided: nothing more is sent.
    """

    __slots__ = ("open", "settled")

    def __init__(self) -> None:
        self.open: dict[int, bytes] = {}
        self.settled = OffsetSet()

    def settle(self, offset: int) -> None:
        """The register is decided, with the value that was issued."""
        self.open.pop(offset, None)
        self.settled.add(offset)
