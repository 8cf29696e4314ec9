"""The six variants on this machine: lone transactions over stores behind sites of their own."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from wormspace.space import Client
from wormspace.tx import VARIANTS, KeyValueStore, LmdbStore, RemoteStore, Site, Transaction
from wormspace.tx.variants import Variant


class Measured(msgspec.Struct, frozen=True):
    """What lone transactions of one variant took; in milliseconds.

    Attributes:
        decided_ms: median time from the begin of the commit to the decision at the last resource
            manager; for F2, from the last operation's arrival there.
        committed_ms: median time of the commit as its user sees it.
    """

    variant: Variant
    decided_ms: float
    committed_ms: float


async def measure(client: Client, base: Path, transactions: int, space: str) -> list[Measured]:
    """Run `transactions` of each variant over two stores in `base`, one at a time.

    Sites, stores and the user share this process; what they say goes over the loopback interface.
    """
    decided: dict[object, float] = {}
    async with AsyncExitStack() as stack:
        remotes = []
        for name in ("a", "b"):
            store = await KeyValueStore.open(name, LmdbStore(base / name))
            stack.push_async_callback(store.close)
            site = Site(
                client,
                space=space,
                managers=[store],
                on_decision=lambda txid, name, d: decided.update({txid: time.perf_counter()}),
            )
            stack.push_async_callback(site.close)
            remotes.append(RemoteStore(name, await site.start("127.0.0.1")))
        tm = Site(client, space=space)
        stack.push_async_callback(tm.close)
        tm_address = await tm.start("127.0.0.1")
        app = Site(client, space=space)
        stack.push_async_callback(app.close)
        return [
            await _measure(app, remotes, tm_address, variant, transactions, decided)
            for variant in VARIANTS.values()
        ]


async def _measure(
    app: Site,
    remotes: list[RemoteStore],
    tm: str,
    variant: Variant,
    transactions: int,
    decided: dict[object, float],
) -> Measured:
    decisions, commits = [], []
    for n in range(transactions + 3):
        transaction = Transaction(app, remotes, variant=variant.name, tm=tm)
        async with transaction as tx:
            for remote in remotes:
                await tx[remote].put(b"%d" % n, b"value")
            began = time.perf_counter()
            if variant.spontaneous:
                for remote in remotes:
                    await tx[remote].put(b"last", b"value", last=True)
        ended = time.perf_counter()
        if n >= 3:  # by then connections stand and everybody listens
            decisions.append(decided.get(transaction.id, ended) - began)
            commits.append(ended - began)
    middle = transactions // 2
    return Measured(variant, sorted(decisions)[middle] * 1e3, sorted(commits)[middle] * 1e3)
