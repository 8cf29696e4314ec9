"""What `connect` returns: a client of the address space, with the applications at hand."""

from __future__ import annotations

from wormspace.space import Client


class Worm(Client):
    """A connection, and a way to each application that stands on it."""
