"""What is wrong with a message, before anything is done with it.

The decoder has checked types and the bounds of single fields (`paxos.messages`); here are the rules
that join several fields, and those that depend on what the server has seen.  What breaks a rule is
answered for itself, and changes nothing.
"""

from __future__ import annotations

from wormspace.addresses import TRIM
from wormspace.paxos.ballot import MAX_ROUND, PROPOSER_BYTES, ROUND_BYTES, UNSAFE
from wormspace.paxos.messages import MAX_ITEMS, Capture, Decided, Read, Trim, Write
from wormspace.server import tables
from wormspace.store.engine import View
from wormspace.wire.messages import (
    BAD_REQUEST,
    TOO_LARGE,
    ClientMessage,
    Failed,
    Listen,
    Spaces,
    Status,
    Trims,
    Unlisten,
)

ROUNDS_JUMP = 1 << 40
"""So far above the rounds that a server has seen a ballot may be.

Rounds rise by one with each capture.  A client that makes 10,000 captures a second elsewhere comes
to this after three years; and to use up the 64 bits in such jumps takes 2^24 of them, each on disk.
A single ballot of the highest round would end all captures for ever: nothing is above it.
"""

_LOWEST = bytes(ROUND_BYTES - 1) + b"\1"
"""Round 1: below it there is the unsafe ballot, and none of a capture."""


def makes_room(m: ClientMessage) -> bool:
    """Whether a full store takes this: a trim, or the write that decides one."""
    return isinstance(m, Trim) or (isinstance(m, Write) and m.offsets == [TRIM])


class Door:
    """Checks what comes in.

    Args:
        max_value: the largest value accepted, in bytes.
    """

    def __init__(self, max_value: int) -> None:
        self._max_value = max_value
        self._reached = self._highest = b""

    def learn_rounds(self, view: View) -> None:
        """Look up how far rounds have come."""
        reached = tables.rounds_reached(view)
        self._reached = _last_ballot(reached + tables.ROUNDS_STEP)
        self._highest = _last_ballot(reached + ROUNDS_JUMP)

    def is_news(self, ballot: bytes) -> bool:
        """Whether the ballot's round is so high that it is to be remembered (`reach_round`)."""
        return ballot > self._reached

    def problem(self, m: ClientMessage) -> Failed | None:
        """Why the message cannot be carried out, if so; costs its length."""
        if isinstance(m, Write):
            if max(map(len, m.values), default=0) > self._max_value:
                return Failed(TOO_LARGE, f"a value has at most {self._max_value} bytes here")
            text = self._of_write(m)
        elif isinstance(m, Read):
            text = _of_spans(m.spans)
        elif isinstance(m, Capture):
            text = self._of_capture(m)
        elif isinstance(m, Decided):
            text = "" if m.spans and all(lo < hi for lo, hi in m.spans) else "an empty span"
        elif isinstance(m, Trim | Listen | Trims):
            text = "" if m.segment < m.stop else "it needs segment < stop"
        else:
            text = ""
        text = text or _of_name(m)
        return Failed(BAD_REQUEST, text) if text else None

    def _of_write(self, m: Write) -> str:
        count = len(m.offsets)
        if not count or count != len(m.values):
            return "a write needs as many values as offsets, and at least one"
        if count > MAX_ITEMS:
            return f"a write has at most {MAX_ITEMS} registers"
        if count > 1 and len(set(m.offsets)) != count:
            return "a write names each offset once"
        return self._of_ballot(m.ballot)

    def _of_capture(self, m: Capture) -> str:
        if m.start >= m.stop:
            return "a capture needs start < stop"
        return self._of_ballot(m.ballot)

    def _of_ballot(self, ballot: bytes) -> str:
        if _LOWEST <= ballot <= self._highest or ballot == UNSAFE:
            return ""
        if ballot < _LOWEST:
            return "a ballot's round is 1 or more, but for the unsafe ballot"
        return f"a ballot's round is at most {ROUNDS_JUMP} above those seen here"


def _of_spans(spans: list[tuple[int, int]]) -> str:
    end = 0
    for lo, hi in spans:
        if lo < end or lo >= hi:
            return "a read needs spans with lo < hi, ascending"
        end = hi
    return "" if spans else "a read needs a span"


def _of_name(m: ClientMessage) -> str:
    if isinstance(m, (Unlisten, Status)):
        return ""
    name = m.after if isinstance(m, Spaces) else m.space
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "a space name is text that UTF-8 can encode"
    if size > tables.MAX_NAME_BYTES:
        return f"a space name has at most {tables.MAX_NAME_BYTES} bytes"
    return ""


def _last_ballot(number: int) -> bytes:
    """Above every ballot of that round, and below those of the next."""
    return min(number, MAX_ROUND).to_bytes(ROUND_BYTES, "big") + b"\xff" * (PROPOSER_BYTES + 1)
