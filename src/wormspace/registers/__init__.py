"""Write-once registers: what every implementation of them is, and how one is found.

`Registers` is what an implementation offers, the pure functions of `wormspace.registers.spec` say
what registers do, and `Implementation` is how another package adds its own (docs/registers.md).
"""

from wormspace.registers.event_queue import EventQueue
from wormspace.registers.interface import (
    Captured,
    Event,
    EventStream,
    Gap,
    Registers,
    RegisterState,
    RegistersTrimmed,
    ServerState,
    Wrote,
)
from wormspace.registers.registry import Implementation, Opener, Url
from wormspace.registers.spec import SpecRegisters
from wormspace.registers.token import Token

__all__ = [
    "Captured",
    "Event",
    "EventQueue",
    "EventStream",
    "Gap",
    "Implementation",
    "Opener",
    "RegisterState",
    "Registers",
    "RegistersTrimmed",
    "ServerState",
    "SpecRegisters",
    "Token",
    "Url",
    "Wrote",
]
