"""What people are shown of transactions, from their vote registers alone."""

from __future__ import annotations

import asyncio

import pytest
from tests.virtual import Watch, virtually

from wormspace.errors import ProtocolViolation, Trimmed, UsageError
from wormspace.knobs import turned
from wormspace.tx.deciding import ABORTED, COMMITTED, UNDECIDED, Vote
from wormspace.tx.names import TxId
from wormspace.tx.viewing import look, look_at
from wormspace.tx.vote_store import VoteStore

SIZE = 4


class Booth:
    """Votes by hand, in the order of their times."""

    def __init__(self, worm) -> None:
        self.worm, self.vote_store, self.at = worm, VoteStore(worm, "tx", lambda *_: None), 0.0
        self.now = asyncio.get_running_loop().time

    async def vote(self, manager: str, txid: TxId, yes: bool = True, names=("a", "b")) -> None:
        self.at += 1.0
        vote = Vote(yes, names, "", self.at, manager)
        await self.vote_store.refuse(manager, txid, vote, deadline=self.now() + 5)

    async def shown(self) -> list[tuple]:
        """(id, who voted, who did not, outcome) of each."""
        seen = await look(self.worm, "tx")
        return [(s.id, sorted(s.votes), s.missing, s.outcome) for s in seen]


def viewing(work) -> None:
    with turned(tx_segment_size=SIZE):
        virtually(lambda worm: work(Booth(worm)))


def test_every_transaction_of_which_votes_are_kept_is_shown_the_latest_last() -> None:
    async def work(booth: Booth) -> None:
        assert await booth.shown() == []
        assert await booth.worm.spaces() == []
        first, second, third = TxId("j", 5), TxId("k", 5), TxId("j", 1)
        await booth.vote("a", first)
        await booth.vote("b", second, False)
        await booth.vote("a", third)
        await booth.vote("b", third)
        await booth.worm.space("other/a/j").alloc(b"", SIZE)
        await booth.worm.space("tx/a").alloc(b"", SIZE)
        assert await booth.shown() == [
            (first, ["a"], ("b",), UNDECIDED),
            (second, ["b"], ("a",), ABORTED),
            (third, ["a", "b"], (), COMMITTED),
        ]
        await booth.vote("b", first)
        assert (await booth.shown())[-1] == (first, ["a", "b"], (), COMMITTED)
        assert len({seen.at for seen in await look(booth.worm, "tx")}) == 3
        await booth.worm.space("tx/a/j").trim_prefix(1)
        shown = {txid: votes for txid, votes, _, _ in await booth.shown()}
        assert shown == {first: ["a", "b"], second: ["b"], third: ["b"]}
        await booth.worm.space("tx/a/l").alloc(booth.vote_store.home.stamp, SIZE + 1)
        with pytest.raises(ProtocolViolation, match="no vote segment"):
            await booth.shown()

    viewing(work)


def test_a_segment_that_is_trimmed_while_somebody_looks_is_left_out() -> None:
    async def work(booth: Booth) -> None:
        for number in (0, SIZE):
            await booth.vote("a", TxId("j", number))
        watch = Watch(booth.worm)

        def trimmed(name: str, given: tuple) -> None:
            if name == "read" and given[0] == ("tx/a/j", 0):
                raise Trimmed("at this moment")

        watch.before = trimmed
        assert [txid.number for txid, *_ in await booth.shown()] == [SIZE]

    viewing(work)


def test_one_transaction_is_looked_at_in_its_own_registers() -> None:
    async def work(booth: Booth) -> None:
        its = TxId("j", 5)
        assert await look_at(booth.worm, "tx", its) is None
        await booth.vote("a", its)
        await booth.vote("b", TxId("j", 6))
        await booth.vote("c", TxId("k", 5))
        await booth.vote("d", TxId("j", 1))
        for _ in range(2):
            seen = await look_at(booth.worm, "tx", its)
            assert (seen.id, sorted(seen.votes), seen.outcome) == (its, ["a"], UNDECIDED)
            assert seen.votes["a"].at == 1.0
        watch, costs = Watch(booth.worm), []
        for _ in range(2):
            await look_at(booth.worm, "tx", its)
            costs.append(watch.clear())
            for initiator in "klm":
                await booth.vote("e", TxId(initiator, 5))
            watch.clear()
        assert costs[0] == costs[1], "other initiators' registers are not read"
        assert await look_at(booth.worm, "tx", TxId("j", 4)) is None
        await booth.worm.space("ty/a/j").alloc(b"", SIZE)
        assert await look(booth.worm, "ty") == []
        assert await look_at(booth.worm, "ty", its) is None
        await booth.worm.space("tx/a/j").trim_prefix(2)
        with pytest.raises(Trimmed):
            await look_at(booth.worm, "tx", its)

    viewing(work)


def test_looking_has_one_time_limit_and_checks_what_it_is_given() -> None:
    async def work(booth: Booth) -> None:
        await booth.vote("a", TxId("j", 0))
        watch, began = Watch(booth.worm), booth.now()
        await look(booth.worm, "tx", timeout=7.0)
        await look_at(booth.worm, "tx", TxId("j", 0), timeout=7.0)
        ends = {given[-1] for name, given in watch.calls if name in ("read", "read_one")}
        assert ends == {began + 7.0}
        for call in (
            lambda: look(7, "tx"),
            lambda: look(booth.worm, "t x"),
            lambda: look(booth.worm, "tx", timeout=0),
            lambda: look_at(7, "tx", TxId("j", 0)),
            lambda: look_at(booth.worm, "t x", TxId("j", 0)),
            lambda: look_at(booth.worm, "tx", "j-0"),
            lambda: look_at(booth.worm, "tx", TxId("j", 0), timeout=0),
        ):
            with pytest.raises(UsageError):
                await call()

    viewing(work)
