"""Votes cast by hand, as a process that died in the middle of a commit leaves them."""

from __future__ import annotations

import asyncio

from wormspace import tx
from wormspace.errors import WormError


async def cast(site: tx.Site, manager: str, txid: tx.TxId, vote: tx.Vote) -> tx.Vote:
    """Vote in the manager's register; the vote that stands there."""
    stands: asyncio.Future[tx.Vote] = asyncio.get_running_loop().create_future()

    def on_stands(standing: tx.Vote | None, error: WormError | None) -> None:
        if standing is not None:
            stands.set_result(standing)
        else:
            stands.set_exception(error)

    await site.open()
    site.host.vote_store.cast(
        manager, txid, vote, on_stands, ahead=True, deadline=site.host.now() + 5
    )
    return await stands
