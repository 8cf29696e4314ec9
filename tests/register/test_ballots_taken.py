"""A client takes no ballot for two captures, not even above one that nobody got by counting."""

import asyncio

from wires import World as Wires
from wormspace.errors import RaceLost, Unavailable
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import Capture
from wormspace.registers.paxos.client import ABSURD_ROUND
from wormspace.server import door
from wormspace.sim import World


def test_two_captures_above_an_absurd_ballot_have_ballots_of_their_own(monkeypatch):
    monkeypatch.setattr(door, "ROUNDS_JUMP", ABSURD_ROUND + 100)  # servers that do not mind

    async def drive():
        wires = Wires(3)
        theirs, ours = wires.client(timeout=5.0), wires.client(timeout=5.0)
        segment = await ours.space("s").alloc(size=4)
        theirs.registers._seen = ballot(ABSURD_ROUND - 1, b"somebody")
        await (await theirs.space("s").segment(0)).capture()
        both = [segment.capture(0, 3), segment.capture(1, 4)]
        ends = await asyncio.gather(*both, return_exceptions=True)
        assert all(
            not isinstance(e, Exception) or isinstance(e, RaceLost | Unavailable) for e in ends
        )
        sent = [m for wire in ours.wires for m in wire.sent if isinstance(m, Capture)]
        of = {m.ballot: (m.start, m.stop) for m in sent}
        assert all(of[m.ballot] == (m.start, m.stop) for m in sent), "two captures, one ballot"
        await wires.close()

    with World(1) as simulated:
        simulated.run(drive())
