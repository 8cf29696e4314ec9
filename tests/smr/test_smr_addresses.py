"""Addresses are used again: a replica of another deployment's object may have one now."""

import asyncio

import pytest

import wormspace
from wormspace.smr import Counter, Sticky, Tuning, attach
from wormspace.smr.records import Packet, encode

SOON = Sticky(0.3)


async def test_a_leader_of_another_object_at_the_address_of_ours_is_not_taken_for_it():
    async with wormspace.connect("memory:") as ours, wormspace.connect("memory:") as theirs:
        leader = await ours.replicate(Counter, "hits", leadership=SOON)
        assert await leader.add() == 1
        follower = await ours.replicate(Counter, "hits", leadership=SOON, timeout=5.0)
        async with follower:
            assert await follower.read() == 1
            port = leader.status().member.port
            await leader.close()
            async with await theirs.replicate(Counter, "hits", leadership=SOON, port=port) as other:
                assert await other.add(100) == 100
                assert await follower.add() == 2
                assert await follower.read() == 2
                assert await other.read() == 100
                await asyncio.sleep(1.5)  # all have greeted whom they know
                for one, foreign in ((other, follower), (follower, other)):
                    context = one._core.context
                    assert foreign.status().member not in context.peers.members()
                    heard = [ping.member for ping in context.announced.since(0)]
                    assert foreign.status().member not in heard


async def test_what_one_replica_was_asked_is_not_done_by_the_next_at_its_address():
    async with wormspace.connect("memory:") as worm:
        first = await worm.replicate(Counter, "hits", leadership=SOON)
        gone = first.status().member
        await first.close()
        async with (
            await worm.replicate(Counter, "hits", leadership=SOON, port=gone.port) as next_one,
            await worm.replicate(Counter, "hits", leadership=SOON) as asker,
        ):
            await next_one.add()
            context = asker._core.context
            body = encode(Packet(bytes(8), 1, 1, b"", False))
            for what in ("submit", "ask", "fetch"):
                with pytest.raises(wormspace.WormError, match="no service"):
                    await context.call(gone, what, body, 5.0)
            assert await context.greet(gone, 5.0) is None
            known = next_one.status().member
            async with asyncio.timeout(30):
                while known not in context.peers.members():  # its segment may not be known here yet
                    await asyncio.sleep(0.01)
                    pong = await context.knock(gone, 5.0)
                    assert pong.member == known


async def test_a_client_asks_a_replica_that_it_was_told_of_only_if_it_is_still_that_one():
    async with wormspace.connect("memory:") as ours, wormspace.connect("memory:") as theirs:
        leader = await ours.replicate(Counter, "hits", leadership=SOON)
        assert await leader.add() == 1
        follower = await ours.replicate(Counter, "hits", leadership=SOON)
        place = follower.status().member
        async with (
            follower,
            await attach(Counter, "hits", [(place.host, place.port)], timeout=5.0) as client,
        ):
            assert await client.add() == 2
            port = leader.status().member.port
            await leader.close()
            async with await theirs.replicate(Counter, "hits", leadership=SOON, port=port) as other:
                assert await other.add(100) == 100
                assert await client.add() == 3
                assert await client.read() == 3
                assert await other.read() == 100


@pytest.mark.parametrize("what", ["write", "extension"])
async def test_a_term_whose_work_is_cancelled_from_within_ends(what):
    """Else a register stays empty that all behind it wait for, or no segment is ever the next."""
    options = {"leadership": SOON, "tuning": Tuning(segment_size=2), "timeout": 5.0}
    async with (
        wormspace.connect("memory:") as worm,
        await worm.replicate(Counter, "hits", **options) as hits,
    ):
        assert await hits.add() == 1
        term = hits._core.proposer._term
        adding = asyncio.ensure_future(hits.add())
        for _ in range(1000):
            task = next(iter(term._extending if what == "extension" else term._writes), None)
            if task is not None:
                task.cancel()
                if what == "write":
                    break
            await asyncio.sleep(0)
        assert await adding == 2
        assert await hits.add() == 3
        assert await hits.read() == 3
