"""WormSpace: an address space of write-once registers.

    import wormspace

    async with wormspace.connect("file:./state") as worm:
        segment = await worm.space("orders").alloc(b"what it is for")
        captured = await segment.capture()
        await segment.write(0, b"decided, for ever", captured.token)
        assert await segment.read(0) == b"decided, for ever"

`wormspace.sync` is the same for programs without asyncio.
"""

import importlib
from typing import TYPE_CHECKING

from wormspace.errors import (
    AlreadyWritten,
    BadAddress,
    BadToken,
    BadUrl,
    CaptureLost,
    Closed,
    NewerFormat,
    NotAllocated,
    PartialWrite,
    ProtocolViolation,
    RaceLost,
    Refused,
    ServerFull,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreLocked,
    TokenReused,
    Trimmed,
    Unavailable,
    UsageError,
    ValueTooLarge,
    WormError,
    WrongIdentity,
    WrongKind,
)
from wormspace.runtime.collector import collect_seldom
from wormspace.space import (
    Address,
    Allocated,
    Captured,
    Event,
    RegisterState,
    Segment,
    SegmentsTrimmed,
    ServerState,
    Space,
    Stream,
    Token,
    Written,
)

if TYPE_CHECKING:
    from wormspace.connecting import Connection, connect
    from wormspace.smr import StateMachine, command, query
    from wormspace.worm import Worm
else:
    # Imported when they are first used: a server needs none of them, and starts in half the time.
    _HOMES = {
        **dict.fromkeys(("Connection", "connect"), "wormspace.connecting"),
        "Worm": "wormspace.worm",
        **dict.fromkeys(("StateMachine", "command", "query"), "wormspace.smr"),
    }

    def __getattr__(name):
        if name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        elif name in ("log", "smr", "tx"):
            value = importlib.import_module(f"wormspace.{name}")
        else:
            raise AttributeError(f"module 'wormspace' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "Address",
    "Allocated",
    "AlreadyWritten",
    "BadAddress",
    "BadToken",
    "BadUrl",
    "CaptureLost",
    "Captured",
    "Closed",
    "Connection",
    "Event",
    "NewerFormat",
    "NotAllocated",
    "PartialWrite",
    "ProtocolViolation",
    "RaceLost",
    "Refused",
    "RegisterState",
    "Segment",
    "SegmentsTrimmed",
    "ServerFull",
    "ServerState",
    "Space",
    "StateMachine",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "Stream",
    "Token",
    "TokenReused",
    "Trimmed",
    "Unavailable",
    "UsageError",
    "ValueTooLarge",
    "Worm",
    "WormError",
    "Written",
    "WrongIdentity",
    "WrongKind",
    "collect_seldom",
    "command",
    "connect",
    "query",
]
