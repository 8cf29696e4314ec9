"""Ballots: who may write, in total order.

A ballot is 16 bytes: a big-endian round, then the proposer's id, so that comparing the bytes
compares the ballots and no two proposers ever share one.  Two values are special: `NOTHING`,
the empty string, is below every ballot and stands for "never accepted"; `UNSAFE`, all zeros, is
the ballot of writes that come without a capture, and is what every register has promised from
the start.
"""

from __future__ import annotations

ROUND_BYTES = 8
PROPOSER_BYTES = 8
BALLOT_BYTES = ROUND_BYTES + PROPOSER_BYTES

NOTHING = b""
UNSAFE = bytes(BALLOT_BYTES)
MAX_ROUND = (1 << (8 * ROUND_BYTES)) - 1


def ballot(number: int, proposer: bytes) -> bytes:
    """The ballot of round `number` (1 or more) that belongs to `proposer` (8 bytes)."""
    if not 0 < number <= MAX_ROUND:
        raise ValueError(f"a ballot's round is 1..{MAX_ROUND}, not {number}")
    if len(proposer) != PROPOSER_BYTES:
        raise ValueError(f"a proposer id has {PROPOSER_BYTES} bytes, not {len(proposer)}")
    return number.to_bytes(ROUND_BYTES, "big") + proposer


def round_of(ballot_: bytes) -> int:
    """The round of a ballot; 0 for `NOTHING` and `UNSAFE`."""
    return int.from_bytes(ballot_[:ROUND_BYTES], "big")


def proposer_of(ballot_: bytes) -> bytes:
    """The id of the proposer that a ballot belongs to."""
    return ballot_[ROUND_BYTES:]


def above(seen: bytes, proposer: bytes) -> bytes:
    """The first ballot of `proposer` that is above every ballot of the round of `seen`."""
    return ballot(round_of(seen) + 1, proposer)


def show(ballot_: bytes) -> str:
    """A ballot for people: round and the first four digits of the proposer."""
    if ballot_ == NOTHING:
        return "-"
    if ballot_ == UNSAFE:
        return "unsafe"
    return f"{round_of(ballot_)}.{ballot_[ROUND_BYTES : ROUND_BYTES + 2].hex()}"
