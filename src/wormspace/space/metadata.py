"""What a segment's metadata register holds: size, payload, and who allocated it.

Writing it *is* allocating the segment.  The nonce tells one allocation attempt from another with
the same payload, so that an allocator knows whether it was the one who won.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from wormspace.addresses import MAX_OFFSETS
from wormspace.errors import ProtocolViolation
from wormspace.malformed import MALFORMED


class Metadata(msgspec.Struct, frozen=True, array_like=True):
    """The decided description of a segment."""

    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_OFFSETS)]
    payload: bytes
    nonce: bytes

    def encode(self) -> bytes:
        """As it is written."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> Metadata:
        """As it was written.

        Raises:
            ProtocolViolation: somebody wrote something else there.
        """
        try:
            return msgspec.msgpack.decode(raw, type=cls)
        except MALFORMED as e:
            raise ProtocolViolation(f"a metadata register holds something else: {e}") from e
