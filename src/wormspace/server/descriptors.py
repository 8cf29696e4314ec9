"""File descriptors: a server must never be short of one for its store.

A connection takes one, and thousands of idle ones cost their clients nothing.  So the process
takes as many as the system lets it, keeps some for itself, and has as many connections as the rest.
"""

from __future__ import annotations

import logging
import resource

from wormspace.errors import UsageError
from wormspace.wire.accepting import MAX_LEAVING

log = logging.getLogger("wormspace.server")

RESERVE = 64
"""For the store, the listening socket, logs, and what the event loop and the interpreter need."""

LEAST_CONNECTIONS = 16
"""With less a server is of no use."""

ENOUGH = 1 << 20
"""What is asked for where there is no hard limit."""


def raise_limit() -> int:
    """Raise this process's soft limit to the hard one; returns how many descriptors it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, ENOUGH) if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError) as e:
            log.warning("the limit of file descriptors stays at %s: %s", soft, e)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def connections(wanted: int, descriptors: int) -> int:
    """How many of the connections wanted a process with so many descriptors may have.

    Raises:
        UsageError: too few to be of use.
    """
    room = descriptors - RESERVE - MAX_LEAVING
    if room < LEAST_CONNECTIONS:
        least = RESERVE + MAX_LEAVING + LEAST_CONNECTIONS
        raise UsageError(
            f"a server needs at least {least} file descriptors, and may have {descriptors} here: "
            "raise the limit (ulimit -n, or LimitNOFILE= of systemd)"
        )
    if room < wanted:
        log.warning(
            "only %d connections, not %d: raise the limit of file descriptors, now %d",
            room, wanted, descriptors,
        )  # fmt: skip
    return min(wanted, room)
