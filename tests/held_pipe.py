"""A transport that the test holds, in place of a socket."""

from __future__ import annotations

import asyncio


class Pipe(asyncio.Transport):
    """Keeps what is written to it, and what else is done to it.

    Attributes:
        writes: as they came; a test may clear them.
        done: "eof", "close" and "abort", in order.
        unsent: what it says that its peer has not taken.
        is_read, has_eof: whether it is read from; whether it can say that nothing more comes.
        high: the limit of its buffer, if that was set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.done: list[str] = []
        self.unsent, self.is_read, self.has_eof, self.high = 0, True, True, None

    @property
    def closed(self) -> bool:
        """Whether nothing more goes out."""
        return not {"close", "abort"}.isdisjoint(self.done)

    def write(self, data):
        self.writes.append(data)

    def get_extra_info(self, name, default=None):
        return ("10.0.0.9", 777) if name == "peername" else default

    def get_write_buffer_size(self):
        return self.unsent

    def set_write_buffer_limits(self, high=None, low=None):
        self.high = high

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        assert self.is_read, "paused twice"
        self.is_read = False

    def resume_reading(self):
        assert not self.is_read, "resumed twice"
        self.is_read = True

    def can_write_eof(self):
        return self.has_eof

    def write_eof(self):
        self.done.append("eof")

    def close(self):
        self.done.append("close")

    def abort(self):
        self.done.append("abort")
