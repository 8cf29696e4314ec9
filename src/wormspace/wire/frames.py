"""Frames: a 4-byte big-endian length, then that many bytes of body.

The decoder is fed whatever the transport delivers, a byte or a megabyte, and yields whole bodies.
A length above the limit is refused as soon as its four bytes are there, before any of the body is
buffered, so that a hostile header costs nothing.
"""

from __future__ import annotations

HEADER_BYTES = 4
MAX_FRAME_BYTES = 16 * 1024 * 1024
"""The largest body a peer sends or accepts, unless configured otherwise."""


class FrameTooLarge(Exception):
    """A frame header announces more than the limit."""

    def __init__(self, announced: int, limit: int) -> None:
        super().__init__(f"a frame of {announced} bytes was announced; the limit is {limit}")


def frame(body: bytes) -> bytes:
    """`body` with its header."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class FrameDecoder:
    """Cuts a byte stream into frame bodies."""

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._limit = limit
        self._held = bytearray()  # the beginning of a frame
        self._need = HEADER_BYTES  # bytes that must be there before it is worth a look

    @property
    def held(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """Take in `data` and return the bodies it completes.

        Raises:
            FrameTooLarge: the stream is unusable from here on.
        """
        if self._held:
            self._held += data
            if len(self._held) < self._need:
                return []
            data = bytes(self._held)
        bodies = []
        at, end = 0, len(data)
        need = HEADER_BYTES
        while end - at >= HEADER_BYTES:
            size = int.from_bytes(data[at : at + HEADER_BYTES], "big")
            if size > self._limit:
                raise FrameTooLarge(size, self._limit)
            if end - at - HEADER_BYTES < size:
                need = HEADER_BYTES + size
                break
            at += HEADER_BYTES
            bodies.append(data[at : at + size])
            at += size
        self._held = bytearray(data[at:])
        self._need = need
        return bodies
