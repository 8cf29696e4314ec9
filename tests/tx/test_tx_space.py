"""A transaction space: how it is made once, and what is one of its vote segments."""

from __future__ import annotations

import asyncio

import pytest
from tests.virtual import virtually

from wormspace.errors import (
    NewerFormat,
    NotAllocated,
    ProtocolViolation,
    Trimmed,
    Unavailable,
    WrongKind,
)
from wormspace.knobs import turned
from wormspace.space import stamp
from wormspace.space.space import Space
from wormspace.tx.names import TxId
from wormspace.tx.space import FORMAT, KIND, TransactionSpace, find_space, open_space

HOME = TransactionSpace("tx", "0" * 16, 8)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_space_is_made_with_an_identity_and_a_size_that_stay() -> None:
    async def work(worm) -> None:
        assert await find_space(worm, "tx", now() + 5) is None
        with turned(tx_segment_size=5):
            made, other = [await open_space(worm, name, now() + 5) for name in ("tx", "ty")]
        assert (made.name, made.segment_size, len(made.identity)) == ("tx", 5, 16)
        assert int(made.identity, 16) >= 0
        assert made.identity != other.identity
        assert await find_space(worm, "tx", now() + 5) == made
        assert await open_space(worm, "tx", now() + 5) == made

    virtually(work)


def test_who_cannot_make_a_space_looks_whether_another_has_until_its_deadline(monkeypatch) -> None:
    alloc, tried = Space.alloc, []

    async def slow(self, metadata: bytes, *, timeout: float):
        tried.append(timeout)
        await asyncio.sleep(timeout)
        raise Unavailable("no servers")

    async def work(worm) -> None:
        began = now()
        with pytest.raises(Unavailable, match="no servers"):
            await open_space(worm, "tx", began + 4.5)
        assert (tried, now() - began) == ([1.0, 2.0, 1.5], 4.5)
        waiting = asyncio.ensure_future(open_space(worm, "tx", now() + 10))
        await asyncio.sleep(0.5)
        says = TransactionSpace("tx", "f" * 16, 3)
        meta = b"\x92\xb0" + says.identity.encode() + b"\x03"
        await alloc(worm.space("tx"), stamp(KIND, FORMAT, meta))
        assert await waiting == says
        assert now() - began == 5.5

    monkeypatch.setattr(Space, "alloc", slow)
    virtually(work)


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        (b"", WrongKind),
        (stamp("log", FORMAT, b""), WrongKind),
        (stamp(KIND, FORMAT + 1, b""), NewerFormat),
        (stamp(KIND, FORMAT, b"\xc1"), ProtocolViolation),
    ],
)
def test_what_is_something_else_is_no_transaction_space(metadata: bytes, error) -> None:
    async def work(worm) -> None:
        await worm.space("tx").alloc(metadata)
        for call in (find_space, open_space):
            with pytest.raises(error, match="tx"):
                await call(worm, "tx", now() + 5)

    virtually(work)


def test_a_space_that_is_trimmed_is_not_made_again() -> None:
    async def work(worm) -> None:
        await open_space(worm, "tx", now() + 5)
        await worm.space("tx").trim(0)
        for call in (find_space, open_space):
            with pytest.raises(Trimmed, match=r"'tx' was trimmed.*choose another name"):
                await call(worm, "tx", now() + 5)
        with pytest.raises(NotAllocated):
            await worm.space("tx").segment(1)

    virtually(work)


def test_a_vote_segment_has_the_size_and_names_the_identity_of_its_space() -> None:
    async def work(worm) -> None:
        cases = [
            (HOME.stamp, 8, None),
            (HOME.stamp, 9, ProtocolViolation),
            (HOME.stamp, 7, ProtocolViolation),
            (TransactionSpace("tx", "1" * 16, 8).stamp, 8, ProtocolViolation),
            (stamp("log", FORMAT, b""), 8, WrongKind),
            (stamp(KIND, FORMAT + 1, b""), 8, NewerFormat),
        ]
        for metadata, size, error in cases:
            segment = await worm.space("tx/a/j").alloc(metadata, size)
            if error is None:
                assert HOME.check(segment) is segment
                continue
            with pytest.raises(error):
                HOME.check(segment)

    virtually(work)


def test_a_branch_is_of_the_space_whose_identity_and_name_it_says() -> None:
    its = HOME.gid("a", TxId("j", 1))
    assert (its.identity, its.space, its.manager, its.id) == (HOME.identity, "tx", "a", ("j", 1))
    assert HOME.vote_space("a", "j") == "tx/a/j"
    for other, owns in (
        (TransactionSpace("tx", "0" * 16, 9), True),
        (TransactionSpace("ty", "0" * 16, 8), False),
        (TransactionSpace("tx", "1" * 16, 8), False),
        (TransactionSpace("ty", "1" * 16, 8), False),
    ):
        assert other.owns(its) is owns
        assert HOME.owns(other.gid("a", TxId("j", 1))) is owns
