"""Who has had which packets applied: the part of the state that makes retries harmless.

A client numbers its packets and says with each below which number it has all outcomes.  The outcome
of a packet is kept until then, so a packet that comes again, from whichever leader, has the same
outcome and no second effect.  Sessions are part of the replicated state and of snapshots
(the RIFL paper, SOSP'15, calls this completion records).
"""

from __future__ import annotations

import msgspec

from wormspace.knobs import KNOBS
from wormspace.smr.records import Packet


class Session(msgspec.Struct, array_like=True):
    """One client: below which number all is over, and the outcomes it may still ask for."""

    low: int
    touched_ns: int
    touched_batch: int
    outcomes: dict[int, bytes]


class SessionTable(msgspec.Struct, array_like=True):
    """All sessions at one moment, in the order in which they were last used."""

    batch: int
    clients: list[tuple[bytes, Session]]


class Sessions:
    """All clients' sessions, those that were silent longest first."""

    def __init__(self) -> None:
        self._clients: dict[bytes, Session] = {}
        self._batch = 0

    def __len__(self) -> int:
        return len(self._clients)

    def find(self, packet: Packet) -> bytes | None:
        """The outcome of this very packet, if it was applied before and is not over."""
        session = self._clients.get(packet.client)
        return None if session is None else session.outcomes.get(packet.number)

    def refusal(self, packet: Packet) -> str:
        """Why a packet that is not known cannot be applied any more; empty if it can."""
        session = self._clients.get(packet.client)
        if session is None:
            return "its session has expired" if packet.settled else ""
        return "its client has given it up" if packet.number < session.low else ""

    def keep(self, packet: Packet, outcome: bytes, time_ns: int) -> None:
        """The packet was applied."""
        session = self._clients.pop(packet.client, None)
        if session is None:
            session = Session(1, 0, 0, {})
        self._clients[packet.client] = session
        session.touched_ns = time_ns
        session.touched_batch = self._batch
        session.outcomes[packet.number] = outcome
        if packet.low > session.low:
            session.low = packet.low
            for number in [n for n in session.outcomes if n < packet.low]:
                del session.outcomes[number]

    def expire(self, now_ns: int) -> None:
        """A batch is over: forget clients that have been silent for too long.

        In command time *and* in batches, for either alone would do harm: a leader whose clock is
        ahead must not make a command forgotten that is still under way, and a client that is
        merely slow must not be forgotten for others' zeal.
        """
        self._batch += 1
        limit_ns = now_ns - KNOBS.smr_session_s * 1_000_000_000
        while self._clients:
            client, session = next(iter(self._clients.items()))
            if session.touched_ns >= limit_ns:
                return
            if session.touched_batch >= self._batch - KNOBS.smr_session_batches:
                return
            del self._clients[client]

    def dump(self) -> SessionTable:
        """For a snapshot: a copy of all but the outcomes themselves."""
        clients = [
            (client, Session(s.low, s.touched_ns, s.touched_batch, dict(s.outcomes)))
            for client, s in self._clients.items()
        ]
        return SessionTable(self._batch, clients)

    def load(self, table: SessionTable) -> None:
        """Go on from a snapshot."""
        self._batch, self._clients = table.batch, {}
        self.add(table.clients)

    def add(self, clients: list[tuple[bytes, Session]]) -> None:
        """More sessions of that snapshot."""
        self._clients.update(clients)
