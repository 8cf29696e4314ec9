"""Work of transactions that run elsewhere, kept where its resource manager is until they commit."""

from __future__ import annotations

from collections.abc import Callable

from wormspace.tx.managers import Branch
from wormspace.tx.names import TxId


class KeptBranches:
    """The branches that are kept at one site, and when each was used last.

    Args:
        now: seconds on the loop's clock.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._kept: dict[tuple[TxId, str], tuple[Branch, float]] = {}

    def keep(self, txid: TxId, manager: str, branch: Branch) -> None:
        """Keep a branch until its vote is asked for."""
        self._kept[txid, manager] = branch, self._now()

    def use(self, txid: TxId, manager: str) -> Branch | None:
        """A branch that is kept; being asked for keeps it alive."""
        branch, _ = self._kept.get((txid, manager), (None, 0.0))
        if branch is not None:
            self.keep(txid, manager, branch)
        return branch

    def take(self, txid: TxId, manager: str) -> Branch | None:
        """A branch that is kept, which is kept no longer."""
        return self._kept.pop((txid, manager), (None, 0.0))[0]

    def used(self) -> list[tuple[tuple[TxId, str], float]]:
        """All of them, by transaction and manager, with when each was used last."""
        return [(key, at) for key, (_, at) in self._kept.items()]
