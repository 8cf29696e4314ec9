"""The address space: segments of write-once registers, allocated in order.  The public API.

Applications (`wormspace.log` and its like) know of registers what is here, and nothing below it.
"""

from wormspace.registers.interface import Captured, RegisterState, ServerState
from wormspace.registers.token import Token
from wormspace.space.address import Address
from wormspace.space.client import Client
from wormspace.space.events import Allocated, Event, SegmentsTrimmed, Written
from wormspace.space.kind import read_stamp, require_stamp, stamp
from wormspace.space.segment import Segment
from wormspace.space.space import Space
from wormspace.space.stream import Stream

__all__ = [
    "Address",
    "Allocated",
    "Captured",
    "Client",
    "Event",
    "RegisterState",
    "Segment",
    "SegmentsTrimmed",
    "ServerState",
    "Space",
    "Stream",
    "Token",
    "Written",
    "read_stamp",
    "require_stamp",
    "stamp",
]
