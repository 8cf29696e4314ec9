"""`worm://h1:p1,h2:p2,h3:p3`: registers on the servers of a cluster; `/` separates partitions.

`?cluster=ID` makes sure that it is that cluster.
"""

from __future__ import annotations

import asyncio
import random

from wormspace.errors import BadUrl, Refused, Unavailable, UsageError
from wormspace.paxos.quorum import majority
from wormspace.registers.interface import Registers
from wormspace.registers.paxos.client import PaxosRegisters
from wormspace.registers.paxos.partition import Partition
from wormspace.registers.registry import Implementation, Url
from wormspace.runtime.endpoints import Endpoint
from wormspace.wire.link import Link, TcpLink
from wormspace.wire.membership import Membership, OneCluster

USAGE = "worm://HOST:PORT,HOST:PORT,..."
POLL_S = 0.005
GRACE_S = 0.1


async def _open(url: Url, *, rng: random.Random, deadline: float, wait: bool) -> Registers:
    partitions = _dial(url, rng)
    registers = PaxosRegisters(partitions, rng)
    if wait:
        try:
            await _reach_majorities(partitions, deadline)
        except BaseException:
            await registers.close()
            raise
    return registers


def _dial(url: Url, rng: random.Random) -> list[Partition]:
    """Links to every server, which are not begun yet."""
    url.allow("cluster")
    if not url.rest.startswith("//") or not url.rest[2:]:
        raise BadUrl(f"a cluster is {USAGE}")
    sets = [part.split(",") for part in url.rest[2:].rstrip("/").split("/")]
    try:
        places = [[Endpoint.parse(one) for one in part] for part in sets]
    except UsageError as e:
        raise BadUrl(str(e)) from None
    client = f"{rng.getrandbits(64):016x}"
    cluster = url.options.get("cluster", "")
    partitions = []
    one_cluster = OneCluster()
    for index, addresses in enumerate(places):
        membership = Membership(index, len(places), len(addresses), one_cluster)
        links: list[Link] = [
            TcpLink(host, port, membership, cluster=cluster, client=client, rng=rng)
            for host, port in addresses
        ]
        partitions.append(Partition(index, links))
    return partitions


async def _reach_majorities(partitions: list[Partition], deadline: float) -> None:
    """Wait until a majority of every partition is up, and a moment longer for the others.

    A server that is not up yet would miss the first captures, and work harder ever after.

    Raises:
        Refused, Unavailable.
    """
    loop = asyncio.get_running_loop()
    for partition in partitions:
        while sum(link.up for link in partition.links) < majority(partition.size):
            refusal = partition.refusal()
            if refusal:
                raise Refused(str(refusal), refusal.code)
            if loop.time() >= deadline:
                raise Unavailable(str(partition.unavailable("connecting", partition.up)))
            await asyncio.sleep(POLL_S)
    for _ in range(round(GRACE_S / POLL_S)):
        if loop.time() >= deadline or all(link.up for p in partitions for link in p.links):
            return
        await asyncio.sleep(POLL_S)


CLUSTER = Implementation(_open, USAGE, embedded=False)
