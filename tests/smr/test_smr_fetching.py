"""Snapshots that others fetch piece by piece, and how long registers are kept for them."""

import asyncio

import pytest

from wormspace.sim import World
from wormspace.smr import StateMachine
from wormspace.smr.engine import Engine
from wormspace.smr.errors import NoSnapshot
from wormspace.smr.fetching import (
    ANNOUNCED_KEPT,
    AT_ONCE,
    NEEDED_S,
    PATIENCE_S,
    Announced,
    Fetches,
)
from wormspace.smr.records import NOOP, Fetch, Member, Ping
from wormspace.smr.snapshots import restore
from wormspace.space import Address


class Numbers(StateMachine):
    held: list[int] = [1, 2, 3]  # noqa: RUF012


def timely(work):
    def test():
        with World(0) as world:
            world.run(work(), deadline_s=10_000)

    test.__name__ = work.__name__
    return test


def at(offset):
    engine = Engine(Numbers())
    for _ in range(offset):
        engine.apply(NOOP, 99)
    return engine


def images(engine):
    return len(engine.machine._journal.images)


async def stream(pieces):
    for piece in pieces:
        yield piece


@timely
async def test_a_snapshot_comes_piece_by_piece_and_what_follows_it_is_kept_for_a_while():
    fetches, engine = Fetches(), at(3)
    assert fetches.needed is None
    pieces, ticket, index = [], 0, 0
    while True:
        answer = fetches.next(engine, Fetch(ticket, index))
        assert fetches.needed == Address(0, 3)
        assert answer.ticket == 1
        ticket, index = answer.ticket, index + 1
        if not answer.piece:
            break
        pieces.append(answer.piece)
        assert images(engine) == 1
        await asyncio.sleep(PATIENCE_S - 1)
    assert images(engine) == 0
    assert len(pieces) > 1
    assert (await restore(Numbers, stream(pieces))).position == Address(0, 3)
    with pytest.raises(NoSnapshot, match="is not held any more"):
        fetches.next(engine, Fetch(ticket, index))
    await asyncio.sleep(NEEDED_S - 0.1)
    assert fetches.needed == Address(0, 3)
    await asyncio.sleep(0.2)
    assert fetches.needed is None
    assert fetches.next(engine, Fetch(0, 0)).ticket == 2
    fetches.close()


@timely
async def test_one_that_nobody_asks_for_any_more_is_dropped():
    fetches, one, other = Fetches(), at(3), at(5)
    with pytest.raises(NoSnapshot, match="is not held any more"):
        fetches.next(one, Fetch(0, -1))
    first = fetches.next(one, Fetch(0, 0)).ticket
    await asyncio.sleep(PATIENCE_S - 1)
    second = fetches.next(other, Fetch(0, 0)).ticket
    assert fetches.needed == Address(0, 3)
    await asyncio.sleep(1.5)
    assert fetches.needed == Address(0, 5)
    assert (images(one), images(other)) == (0, 1)
    with pytest.raises(NoSnapshot, match="is not held any more"):
        fetches.next(one, Fetch(first, 1))
    assert fetches.next(other, Fetch(second, 1)).piece
    fetches.close()
    assert (fetches.needed, images(other)) == (None, 0)
    with pytest.raises(NoSnapshot):
        fetches.next(other, Fetch(second, 2))
    await asyncio.sleep(2 * PATIENCE_S)


@timely
async def test_so_many_are_fetched_at_once_and_no_more():
    fetches = Fetches()
    engines = [at(n) for n in range(AT_ONCE)]
    tickets = [fetches.next(engine, Fetch(0, 0)).ticket for engine in engines]
    assert tickets == list(range(1, AT_ONCE + 1))
    with pytest.raises(NoSnapshot, match=f"{AT_ONCE} snapshots are being fetched here already"):
        fetches.next(at(0), Fetch(0, 0))
    index = 1
    while fetches.next(engines[0], Fetch(tickets[0], index)).piece:
        index += 1
    assert fetches.next(at(0), Fetch(0, 0)).ticket == AT_ONCE + 1
    fetches.close()


def test_of_each_incarnation_the_last_word_is_known_and_of_so_many():
    announced = Announced()

    def ping(n, applied=0):
        member = Member(f"r{n}", bytes([n]), "host", n)
        return Ping(member, Address(0, applied), Address(0, 0), 1, None, (-1, b""))

    announced.note(ping(0), 1.0)
    announced.note(ping(1), 2.0)
    announced.note(ping(0, 7), 3.0)
    assert [one.member.port for one in announced.since(0.0)] == [1, 0]
    assert announced.since(3.0) == [ping(0, 7)]
    assert announced.since(3.5) == []
    for n in range(2, ANNOUNCED_KEPT):
        announced.note(ping(n), 4.0)
    assert len(announced.since(0.0)) == ANNOUNCED_KEPT
    announced.note(ping(200), 5.0)
    held = announced.since(0.0)
    assert len(held) == ANNOUNCED_KEPT
    assert [one.member.port for one in held[:2]] == [0, 2], "who was heard of longest ago goes"
