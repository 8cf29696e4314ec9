"""The address space without asyncio: a connection, spaces, segments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import wormspace.space.client as asynchronous
import wormspace.space.segment as segments
import wormspace.space.space as spaces
from wormspace.sync.delegating import Attribute, Closing, Handle, making, streaming, waiting

T = TypeVar("T")


class Segment(Handle):
    """A handle on one allocated segment; get it from `Space.alloc` or `Space.segment`.

    Every call takes a `timeout` in seconds (default: the client's) and raises `Unavailable` when it
    passes, `Trimmed` once the segment is garbage, and `BadAddress` for offsets outside it.
    """

    number = Attribute[int]("Its place in the space, from 0.")
    size = Attribute[int]("How many registers it has.")
    metadata = Attribute[bytes]("What its allocator said it is for.")

    @property
    def space(self) -> Space:
        """The space it belongs to."""
        space: Space = self._parent
        return space

    capture = waiting(segments.Segment.capture)
    write = waiting(segments.Segment.write)
    write_range = waiting(segments.Segment.write_range)
    unsafe_write = waiting(segments.Segment.unsafe_write)
    read = waiting(segments.Segment.read)
    read_range = waiting(segments.Segment.read_range)
    settle = waiting(segments.Segment.settle)
    holds = waiting(segments.Segment.holds)
    trim = waiting(segments.Segment.trim)
    listen = streaming(segments.Segment.listen)
    inspect = waiting(segments.Segment.inspect)


class Space(Handle):
    """A handle on a space; get it from `Worm.space`.  Spaces need no creation."""

    name = Attribute[str]("1 to 255 bytes.")

    @property
    def client(self) -> Client:
        """The connection it belongs to."""
        client: Client = self._parent
        return client

    alloc = making(spaces.Space.alloc, Segment)
    segment = making(spaces.Space.segment, Segment)
    check = waiting(spaces.Space.check)
    tail = waiting(spaces.Space.tail)
    head = waiting(spaces.Space.head)
    trim = waiting(spaces.Space.trim)
    trim_prefix = waiting(spaces.Space.trim_prefix)
    listen = streaming(spaces.Space.listen)


class Client(Closing):
    """A connection to an address space."""

    space = making(asynchronous.Client.space, Space)
    spaces = waiting(asynchronous.Client.spaces)
    servers = waiting(asynchronous.Client.servers)

    def run(self, make: Callable[[], Awaitable[T]]) -> T:
        """Wait for something asynchronous on this connection's event loop.

            bank = worm.run(lambda: tx.KeyValueStore.open("bank", tx.LmdbStore(Path("bank"))))
            worm.run(bank.close)

        What lives on that loop, such as a resource manager, is opened and closed in this way.
        """
        return self._background.wait(make)
