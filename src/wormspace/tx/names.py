"""Who and where: names of resource managers and transactions, and the address of every vote.

Transaction `t` of initiator `j` has the vote of resource manager `i` at address `t` of space
`<tx space>/<i>/<j>`, whose segments all have the size that the transaction space says.  So whoever
knows the names can compute where every vote stands.  An initiator is one life of one process: its
name is random, and its transactions are numbered from 0.

A prepared branch in a database carries a `Gid`, which holds all of these names, and the identity
of the transaction space: two programs with address spaces of their own may use one database, and
neither may decide what the other has prepared.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from wormspace.errors import UsageError
from wormspace.space import Address

log = logging.getLogger("wormspace.tx")

NAME_MAX = 20
NUMBER_STOP = 10**18
GID_FORMAT = 2
"""Gids of format 1 named no identity; a newer one is not read at all."""

MARK = f"worm{GID_FORMAT}"
ANY_MARK = re.compile(r"worm\d*:")
"""How every gid of ours begins, in whichever format."""

_NAME = re.compile(rf"[A-Za-z0-9_.]{{1,{NAME_MAX}}}")
_NAMES = r"([A-Za-z0-9_.]{1,20}):([A-Za-z0-9_.]{1,20}):([A-Za-z0-9_.]{1,20})-(\d{1,18})"
_ID = re.compile(r"([A-Za-z0-9_.]{1,20})-(\d{1,18})", re.ASCII)
_GID = re.compile(rf"{MARK}:([0-9a-f]{{16}}):{_NAMES}", re.ASCII)
_GID_1 = re.compile(rf"worm:{_NAMES}", re.ASCII)


def check_name(name: str) -> str:
    """`name`, if a transaction space, a resource manager or an initiator can be called that.

    Names go into the identifiers of prepared transactions, where databases leave little room.

    Raises:
        UsageError: it is no text, empty, too long, or has other than letters, digits, `_` and `.`.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
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
        match = _ID.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise UsageError(f"a transaction is INITIATOR-NUMBER, not {text!r}")
        return cls(match[1], int(match[2]))

    def address(self, size: int) -> Address:
        """Where, in each of its vote spaces, its votes are, if their segments have that size."""
        return Address.of(self.number, size)


def check_id(txid: TxId) -> TxId:
    """`txid`, if a transaction can have it.

    Raises:
        UsageError.
    """
    if not isinstance(txid, TxId) or type(txid.number) is not int:
        raise UsageError(f"a transaction's id is a TxId (TxId.parse makes one), not {txid!r}")
    if not 0 <= txid.number < NUMBER_STOP:
        raise UsageError(f"a transaction's number is 0 or more and below 10^18, not {txid.number}")
    check_name(txid.initiator)
    return txid


class Gid(msgspec.Struct, frozen=True, gc=False):
    """One resource manager's branch of a transaction, as a database's global identifier.

    Attributes:
        identity: that of the transaction space; "" in format 1, which did not say it.
        space: the transaction space's name.
        manager: whose branch it is.
    """

    identity: str
    space: str
    manager: str
    id: TxId

    def __str__(self) -> str:
        """At most 104 bytes: PostgreSQL takes 199, and XA 64 for each of its two halves."""
        names = f"{self.space}:{self.manager}:{self.id.initiator}-{self.id.number}"
        return f"{MARK}:{self.identity}:{names}" if self.identity else f"worm:{names}"

    @classmethod
    def parse(cls, text: str) -> Gid | None:
        """The branch of that identifier; None if it is none of ours, or of a newer format."""
        match = _GID.fullmatch(text)
        if match is not None:
            return cls(match[1], match[2], match[3], TxId(match[4], int(match[5])))
        match = _GID_1.fullmatch(text)
        if match is not None:
            return cls("", match[1], match[2], TxId(match[3], int(match[4])))
        return None


def branches_of(manager: str, texts: Iterable[str]) -> list[Gid]:
    """The branches of a manager, of all identifiers that its database holds prepared.

    One of ours that this version cannot read is left alone, and logged.
    """
    found = []
    for text in texts:
        gid = Gid.parse(text)
        if gid is None and ANY_MARK.match(text):
            log.warning(
                "tx: %s holds %r prepared, in a format that this wormspace does not read: "
                "it is left alone; update wormspace to resolve it",
                manager,
                text,
            )
        if gid is not None and gid.manager == manager:
            found.append(gid)
    return found


def vote_space(space: str, manager: str, initiator: str) -> str:
    """The name of the address space with a resource manager's votes for one initiator."""
    return f"{space}/{manager}/{initiator}"


def split_vote_space(space: str, name: str) -> tuple[str, str] | None:
    """(resource manager, initiator) of a vote space of `space`; None if it is something else."""
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != space:
        return None
    if not all(_NAME.fullmatch(part) for part in parts[1:]):
        return None
    return parts[1], parts[2]
