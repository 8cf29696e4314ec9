"""A simulated deployment: three wormservers, sites with a store each, and their users.

The shipped client, server, sites and stores run in it; only clock, network and disks are simulated.
"""

from __future__ import annotations

import asyncio

import wormspace
from wormspace import tx
from wormspace.errors import Unavailable
from wormspace.server.limits import ServerIdentity
from wormspace.sim import World
from wormspace.sim.serving import PORT, serving
from wormspace.sim.world import current

SITE_PORT = 7100
SERVERS = ("s1", "s2", "s3")
URL = "worm://" + ",".join(f"{name}:{PORT}" for name in SERVERS)


class Deployment:
    """`stores` are hosts with a site and a store of their own name.

    Attributes:
        sites: the site of each host whose process lives.
        decisions: (virtual time, host, transaction, outcome) of every decision acted on.
    """

    def __init__(
        self, world: World, stores=("a", "b"), *, patience: float = 2.0, real_store: bool = False
    ) -> None:
        self.world = world
        self.stores = stores
        self.patience = patience
        self.sites: dict[str, tx.Site] = {}
        self.kv: dict[str, tx.KeyValueStore] = {}
        self.decisions: list[tuple[float, str, tx.TxId, str]] = []
        self.lives = 0
        for name in SERVERS:
            identity = ServerIdentity("cl", name, 0, 1, len(SERVERS))
            world.spawn(name, serving(identity, real_store=real_store))
        for name in stores:
            self.add_store(name, name)

    async def connect(self) -> wormspace.Worm:
        """A client for the process this runs in."""
        self.lives += 1
        rng = self.world.random_for(f"client {self.lives}")
        while True:
            try:
                return await wormspace.connect(URL, timeout=5.0, rng=rng)
            except Unavailable:
                continue

    async def site(self, host: str, managers=()) -> tx.Site:
        """A site for the process this runs in."""
        site = tx.Site(
            await self.connect(),
            managers=managers,
            patience_s=self.patience,
            idle_s=4.0,
            clock=self.world.host(host).clock,
            on_decision=lambda txid, name, d: self.decisions.append(
                (self.world.now, name, txid, d.outcome)
            ),
        )
        self.sites[host] = site
        return site

    def add_store(self, host: str, name: str) -> None:
        """A host with a store of that name, which others may have too."""
        self.world.spawn(host, lambda: self._store(host, name))

    async def _store(self, host: str, name: str) -> None:
        engine = current().world.host(host).disk("store").open()
        store = await tx.KeyValueStore.open(name, engine, self.world.random_for(f"store {host}"))
        self.kv[host] = store
        site = await self.site(host, [store])
        await site.start("0.0.0.0", SITE_PORT, address=f"{host}:{SITE_PORT}")
        await asyncio.Event().wait()

    def remotes(self) -> list[tx.RemoteStore]:
        """The stores, for a process that runs transactions."""
        return [tx.RemoteStore(name, f"{name}:{SITE_PORT}") for name in self.stores]

    def committed(self, host: str) -> dict[bytes, bytes]:
        """What a store's disk holds, committed."""
        return dict(self.world.host(host).disk("store").items("data"))

    def prepared(self, host: str) -> list[bytes]:
        """The branches that a store's disk holds prepared."""
        return [key for key, _ in self.world.host(host).disk("store").items("prepared")]
