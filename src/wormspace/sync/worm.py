"""Connecting without asyncio, with the applications at hand."""

from __future__ import annotations

import random

import wormspace.connecting as connecting
import wormspace.worm as asynchronous
from wormspace.space.client import DEFAULT_TIMEOUT_S
from wormspace.sync.background import Background
from wormspace.sync.delegating import making
from wormspace.sync.log import Log
from wormspace.sync.smr import replicating
from wormspace.sync.space import Client
from wormspace.sync.tx import Site, Transaction


class Worm(Client):
    """A connection, and a way to each application that stands on it."""

    log = making(asynchronous.Worm.log, Log)
    replicate = replicating(asynchronous.Worm.replicate)
    transaction = making(asynchronous.Worm.transaction, Transaction)
    site = making(asynchronous.Worm.site, Site)


def connect(
    url: str, *, timeout: float = DEFAULT_TIMEOUT_S, rng: random.Random | None = None
) -> Worm:
    """Connect to an address space.

        with wormspace.sync.connect("file:./state") as worm:
            segment = worm.space("orders").alloc()

    As `wormspace.connect`, which says what the arguments are, and what it raises.
    """

    async def opening() -> asynchronous.Worm:
        return await connecting.connect(url, timeout=timeout, rng=rng)

    background = Background.connect(opening)
    return Worm(background, background.client)
