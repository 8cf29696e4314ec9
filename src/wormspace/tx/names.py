"""Who and where: names of resource managers and transactions, and the address of every vote.

Transaction `t` of initiator `j` has the vote of resource manager `i` at address `t` of space
`<tx space>/<i>/<j>`, whose segments all have `VOTES` registers.  So whoever knows the names can
compute where every vote stands.  An initiator is one life of one process: its name is random, and
its transactions are numbered from 0.

A prepared branch in a database carries a `Gid`, which holds all of these names.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from wormspace.errors import UsageError
from wormspace.space import Address

VOTES = 1024
"""Registers per vote segment: part of the protocol, everybody computes addresses with it."""

NAME_MAX = 20
_NAME = re.compile(rf"[A-Za-z0-9_.]{{1,{NAME_MAX}}}")
_ID = re.compile(r"([A-Za-z0-9_.]{1,20})-(\d{1,18})")
_GID = re.compile(
    r"worm:([A-Za-z0-9_.]{1,20}):([A-Za-z0-9_.]{1,20}):([A-Za-z0-9_.]{1,20})-(\d{1,18})"
)


def check_name(name: str) -> str:
    """`name`, if a transaction space, a resource manager or an initiator can be called that.

    Names go into the identifiers of prepared transactions, where databases leave little room.

    Raises:
        UsageError: it is empty, too long, or has other than letters, digits, `_` and `.`.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"a name here has 1 to {NAME_MAX} letters, digits, '_' and '.', not {name!r}"
        )
    return name


class TxId(NamedTuple):
    """A transaction: who started it, and its number among those."""

    initiator: str
    number: int

    def __str__(self) -> str:
        return f"{self.initiator}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> TxId:
        """The id that prints as `text`.

        Raises:
            UsageError: it is not INITIATOR-NUMBER.
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise UsageError(f"a transaction is INITIATOR-NUMBER, not {text!r}")
        return cls(match[1], int(match[2]))

    @property
    def address(self) -> Address:
        """Where, in each of its vote spaces, its votes are."""
        return Address.of(self.number, VOTES)


class Gid(msgspec.Struct, frozen=True, gc=False):
    """One resource manager's branch of a transaction, as a database's global identifier."""

    space: str
    manager: str
    id: TxId

    def __str__(self) -> str:
        """At most 86 bytes: PostgreSQL takes 199, and XA 64 for each of its two halves."""
        return f"worm:{self.space}:{self.manager}:{self.id.initiator}-{self.id.number}"

    @classmethod
    def parse(cls, text: str) -> Gid | None:
        """The branch of that identifier; None if it is none of ours."""
        match = _GID.fullmatch(text)
        if match is None:
            return None
        return cls(match[1], match[2], TxId(match[3], int(match[4])))


def vote_space(space: str, manager: str, initiator: str) -> str:
    """The name of the address space with a resource manager's votes for one initiator."""
    return f"{space}/{manager}/{initiator}"


def split_vote_space(space: str, name: str) -> tuple[str, str] | None:
    """(resource manager, initiator) of a vote space of `space`; None if it is something else."""
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != space:
        return None
    return parts[1], parts[2]
