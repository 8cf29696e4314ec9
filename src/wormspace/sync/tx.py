"""Transactions without asyncio."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import wormspace.tx.site as sites
import wormspace.tx.transaction as transactions
from wormspace.sync.background import Block, Foreign
from wormspace.sync.delegating import Attribute, Closing, Handle, running, waiting
from wormspace.tx import Decision, ResourceManager, TxId


class Transaction(Handle):
    """One transaction; get it from `Worm.transaction`."""

    id = Attribute[TxId]("Its name.")
    decision = Attribute[Decision | None]("Its outcome, once it is known.")
    commit = waiting(transactions.Transaction.commit)
    rollback = waiting(transactions.Transaction.rollback)
    is_conflict = running(transactions.Transaction.is_conflict)

    def __enter__(self) -> Self:
        self._block = Block(self._background, lambda: self._twin)
        self._block.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._block.__exit__(kind, error, traceback)

    def __getitem__(self, participant: ResourceManager) -> Any:
        """The participant's own session in this transaction; its calls are waited for."""
        return Foreign(self._background, self._twin[participant])


class Site(Closing):
    """This process's part in the transactions of one transaction space; get it from `Worm.site`."""

    space = Attribute[str]("The transaction space's name.")
    initiator = Attribute[str]("The name under which this process starts transactions.")
    address = Attribute[str]("Where others reach it, HOST:PORT; empty before `start`.")
    start = waiting(sites.Site.start)
    close = waiting(sites.Site.close)
    attach = running(sites.Site.attach)
    detach = running(sites.Site.detach)
    settle = waiting(sites.Site.settle)
    recover = waiting(sites.Site.recover)
    left_alone = running(sites.Site.left_alone)
