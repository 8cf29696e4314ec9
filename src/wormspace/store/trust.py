"""Whether a store can be trusted: once an effect on it has failed, never again.

After an error of the system nobody knows what is on disk, and asking again proves nothing: the
system may have dropped what it could not write.  So every effect of the store runs inside a
`Trust`, and an error that leaves it either is `StoreFull`, which by contract means that nothing was
changed, or makes the store fail for good: it takes no more batches, and whoever runs it should end
and open it anew.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import TracebackType

from wormspace.errors import Closed, StoreError, StoreFull

log = logging.getLogger("wormspace.store")

ADVICE = (
    "What this server promised is lost, so it must not go on as if nothing were: leave it down (a "
    "majority goes on without it), or restore the whole directory from a copy that was made after "
    "its last write"
)


class Trust:
    """A context manager around effects.

    Attributes:
        failed: what went wrong, if something did.
        closed: whether the store was closed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.failed: str = ""
        self.closed = False

    def check(self) -> None:
        """Raise if the store has failed, or was closed: its descriptors may be others' now.

        Raises:
            StoreError
            Closed
        """
        if self.closed:
            raise Closed(f"{self._path}: the store was closed")
        if self.failed:
            raise StoreError(self.failed)

    def __enter__(self) -> None:
        self.check()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, StoreFull):
            return
        self.fail(error)
        if isinstance(error, Exception):
            raise StoreError(self.failed) from error  # and no `StoreDamaged`, which is of one row

    def fail(self, error: BaseException) -> None:
        """The store is trusted no more."""
        if self.failed:
            return
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            is_dropped = isinstance(error, GeneratorExit)  # with its event loop: nobody waits
            error = StoreError(f"a commit was {'dropped' if is_dropped else 'cancelled'} half-way")
        else:
            is_dropped = False
        what = str(error) or type(error).__name__
        where = str(self._path)
        self.failed = what if where in what else f"{where}: {what}"
        if not is_dropped:
            log.critical("the store has failed: %s", self.failed)
