"""WormSpace without asyncio: the same calls, for plain and threaded programs.

    import wormspace.sync

    with wormspace.sync.connect("file:./state") as worm:
        segment = worm.space("orders").alloc(b"what it is for")
        captured = segment.capture()
        segment.write(0, b"decided, for ever", captured.token)
        assert segment.read(0) == b"decided, for ever"

A connection runs one event loop in a background thread; calls may come from any thread.
"""

from wormspace.sync.background import Block, Stream
from wormspace.sync.log import Cursor, Log
from wormspace.sync.smr import Remote, Replica, View, attach, holding, taking
from wormspace.sync.space import Segment, Space
from wormspace.sync.tx import Site, Transaction
from wormspace.sync.worm import Worm, connect

__all__ = [
    "Block",
    "Cursor",
    "Log",
    "Remote",
    "Replica",
    "Segment",
    "Site",
    "Space",
    "Stream",
    "Transaction",
    "View",
    "Worm",
    "attach",
    "connect",
    "holding",
    "taking",
]
