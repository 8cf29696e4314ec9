"""What the processes of a transaction say to each other, by `wormspace.rpc`.

None of it decides anything: a message that is lost, late or repeated costs time, never atomicity.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from wormspace.tx.deciding import Decision, Vote
from wormspace.tx.names import TxId

SERVICE = "tx"


class Plan(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A transaction that is to be committed.

    Attributes:
        participants: the resource managers' names.
        addresses: HOST:PORT of each one's site; "" for those in the initiator's own process.
        tm: HOST:PORT of the site that drives it, for variants that have one.
        timeout: seconds that a resource manager has for its vote.
    """

    id: TxId
    participants: tuple[str, ...]
    addresses: tuple[str, ...]
    variant: str
    tm: str
    timeout: float


class Operate(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Work in a branch, which begins with its first operation; `last`: then vote, unasked."""

    id: TxId
    manager: str
    body: bytes
    last: Plan | None = None


class Rollback(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Undo a branch that was not asked to vote."""

    id: TxId
    manager: str


class Begin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To a TM: drive this commit.  The answer is a Decision, or nothing if it only starts it."""

    plan: Plan


class Ask(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To a site: let these resource managers vote.  The answer is their votes, as they stand."""

    plan: Plan
    managers: tuple[str, ...]


class Tell(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To a site: this is the decision."""

    id: TxId
    decision: Decision


class Finish(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To a site: the votes say so; commit or abort this branch, durably."""

    gid: str
    commit: bool


class ListPrepared(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To a site: which branches does this resource manager hold prepared?"""

    manager: str


class Identify(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """To a site: which database is this resource manager?  The answer is its identity."""

    manager: str


ToSite: TypeAlias = Operate | Rollback | Begin | Ask | Tell | Finish | ListPrepared | Identify


class ToSpace(msgspec.Struct, frozen=True, array_like=True):
    """What is said, to a site of the transaction space of this identity and to no other.

    Where addresses are used again, a site of another deployment may answer at one that a plan
    names: its stores know nothing of this transaction, and "nothing is prepared" would be a lie.
    """

    identity: str
    message: ToSite


class Said(msgspec.Struct, frozen=True, array_like=True):
    """The answer to an operation: a value, or why there is none.

    Attributes:
        problem: "" if there is none; else the text.
        conflict: whether it is a lock.
    """

    value: bytes = b""
    problem: str = ""
    conflict: bool = False


encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(ToSpace).decode
decode_said = msgspec.msgpack.Decoder(Said).decode
decode_votes = msgspec.msgpack.Decoder(list[Vote | None]).decode
decode_decision = msgspec.msgpack.Decoder(Decision).decode
decode_gids = msgspec.msgpack.Decoder(list[str]).decode
