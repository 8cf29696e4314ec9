"""Notice a peer that died silently: its machine lost power, or the network in between is gone.

An idle connection to it looks like any other, and a listener would wait on it for ever; so the
system asks now and then, and resets the connection when nobody answers.  Where something was sent
and is not acknowledged, the system does not ask but sends again, for a quarter of an hour; so it is
told how long that may take, too.
"""

from __future__ import annotations

import asyncio
import socket

IDLE_S = 10
EVERY_S = 5
TRIES = 3
UNACKNOWLEDGED_MS = 15_000


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the system probe an idle connection; given up after some 25 seconds of silence."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None:
        return  # no socket of the system's: a simulated one
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
    for option, value in (
        ("TCP_KEEPIDLE", IDLE_S),
        ("TCP_KEEPINTVL", EVERY_S),
        ("TCP_KEEPCNT", TRIES),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
