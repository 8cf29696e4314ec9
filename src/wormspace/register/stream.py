"""What one client writes to one array under one ballot."""

from __future__ import annotations

from wormspace.register.contract import ArrayName
from wormspace.register.issued import Issued
from wormspace.register.operations import Owner, WriteOperation
from wormspace.register.partition import Partition


class Stream:
    """The writes of one array under one ballot: what was issued, and what is being gathered.

    `forgotten` says that this client may have written under the ballot before, and does not
    remember what.
    """

    __slots__ = ("array", "ballot", "forgotten", "gathering", "issued", "partition")

    def __init__(
        self, partition: Partition, array: ArrayName, ballot: bytes, forgotten: bool
    ) -> None:
        self.partition = partition
        self.array = array
        self.ballot = ballot
        self.forgotten = forgotten
        self.issued = Issued()
        self.gathering: WriteOperation | None = None

    def gather(self, owner: Owner) -> WriteOperation:
        """A fresh operation for the writes to come."""
        self.gathering = WriteOperation(self.partition, self.array, self.ballot, self.issued, owner)
        return self.gathering

    def flush(self) -> None:
        """The turn of the loop is over: send what was gathered."""
        operation, self.gathering = self.gathering, None
        if operation is not None and not operation.over:
            operation.begin()

    def cancel(self, error: Exception) -> None:
        """Give up what was gathered and not sent yet."""
        if self.gathering is not None:
            self.gathering.cancel(error)
