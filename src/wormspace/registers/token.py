"""Capture tokens: the right to write a range of registers, as a value that can travel.

A token prints as one word and parses back, so that whoever captured can hand it to another thread,
process or machine.  It names the range, the capture (`fence`), and which registers of the range
were already written when it was captured: those must not be written under it, or one capture would
stand for two values.

A token is *handed over*, not shared: two holders who write different values to one register under
one token break the rule that a capture stands for one value per register.  A client refuses that
for the tokens it has used itself, and a server for the values it has accepted; nobody can for two
machines that keep it from each other.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from bisect import bisect_right
from collections.abc import Iterable
from typing import Annotated, TypeAlias

import msgspec

from wormspace.addresses import MAX_BOUND, Bound, SegmentNumber, SpaceName, Span
from wormspace.errors import BadToken
from wormspace.malformed import MALFORMED

_PREFIX = "worm1-"
_CHECK_BYTES = 4

Fence: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=1, max_length=255)]


class Token(msgspec.Struct, frozen=True, array_like=True):
    """The right to write [start, stop) of a segment, as long as nobody else captures it.

    Attributes:
        fence: which capture it is, in bytes that mean something to the implementation alone.  Two
            captures never have the same; and if one capture of a register was granted before
            another of that register was asked for, its fence is the smaller.
        taken: the parts of the range that were already written, ascending.
    """

    space: SpaceName
    segment: SegmentNumber
    start: Bound
    stop: Bound
    fence: Fence
    taken: tuple[Span, ...] = ()

    def __str__(self) -> str:
        """One word of letters, digits, `-` and `_`; `Token.parse` reads it back."""
        body = msgspec.msgpack.encode(self)
        check = zlib.crc32(body).to_bytes(_CHECK_BYTES, "big")
        return _PREFIX + base64.urlsafe_b64encode(check + body).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token that printed as `text`.

        Raises:
            BadToken: it is not one, or was damaged on the way.
        """
        if not isinstance(text, str):
            raise BadToken(f"a capture token is a word, not {type(text).__name__}")
        text = text.strip()
        if not text.startswith(_PREFIX):
            raise BadToken(f"a capture token begins with {_PREFIX!r}")
        packed = text[len(_PREFIX) :]
        try:
            raw = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
        except (binascii.Error, ValueError) as e:
            raise BadToken("not a capture token: the text is damaged") from e
        check, body = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
        if zlib.crc32(body).to_bytes(_CHECK_BYTES, "big") != check:
            raise BadToken("not a capture token: the text is damaged")
        try:
            token = msgspec.msgpack.decode(body, type=cls)
        except MALFORMED as e:
            raise BadToken(f"not a capture token: {e}") from e
        ends = [token.start, *(end for span in token.taken for end in span), token.stop]
        if ends != sorted(ends) or token.start == token.stop:
            raise BadToken("not a capture token: it makes no sense")
        return token

    def covers(self, offset: int) -> bool:
        """Whether the register lies in the range."""
        return self.start <= offset < self.stop

    def require(self, segment_name: tuple[str, int], offset: int) -> None:
        """Make sure that the token is for this register of this segment.

        Raises:
            BadToken: it is not.
        """
        if not self.start <= offset < self.stop or segment_name != (self.space, self.segment):
            raise BadToken(f"the token does not cover {segment_name[0]}/{segment_name[1]}/{offset}")

    def is_free(self, offset: int) -> bool:
        """Whether the register lies in the range and was not written when it was captured."""
        if not self.taken:
            return self.covers(offset)
        at = bisect_right(self.taken, (offset, MAX_BOUND)) - 1
        return self.covers(offset) and (at < 0 or self.taken[at][1] <= offset)

    def free(self) -> Iterable[int]:
        """The offsets that were free when the range was captured, ascending."""
        at = self.start
        for lo, hi in (*self.taken, (self.stop, self.stop)):
            yield from range(at, lo)
            at = hi
