"""One call's time: how long each attempt and each pause may be, and what is said at the end."""

import asyncio
import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import msgspec
import pytest

from virtual import virtually
from wormspace.errors import Closed, Trimmed, UsageError
from wormspace.smr import NoLeader
from wormspace.smr.records import Reply, decoder
from wormspace.smr.replica_context import NotLeading
from wormspace.smr.submit import PacketTooLarge
from wormspace.smr.trying import ASK_PAUSE_S, ATTEMPT_S, until_done
from wormspace.space import Address

DICE = SimpleNamespace(uniform=lambda low, high: low == 0.5 * high and 0.75 * high)


def trying(work, attempt, seconds=10.0, choose=lambda: "h:1"):
    """Let `work` wait for the call, which begins at 100 s."""

    async def run(worm):
        loop = asyncio.get_running_loop()
        await asyncio.sleep(100)
        await work(until_done("thing", loop.time() + seconds, DICE, choose, attempt), loop)

    virtually(run)


def replied(body=None, **given):
    return Reply(body, Address(0, 0), **given)


def test_an_attempt_takes_no_longer_than_one_may_and_than_what_is_left():
    told = []

    async def attempt(asked, timeout_s):
        told.append(timeout_s)
        await asyncio.sleep(timeout_s)
        return replied()

    async def work(call, loop):
        with pytest.raises(NoLeader):
            await call
        assert told[0] == ATTEMPT_S
        assert 0 < told[-1] < ATTEMPT_S
        assert loop.time() == pytest.approx(103)

    trying(work, attempt, 3.0)


def test_pauses_grow_to_the_longest_and_end_with_the_time():
    times = []

    async def attempt(asked, timeout_s):
        times.append(asyncio.get_running_loop().time())
        return replied()

    async def work(call, loop):
        with pytest.raises(NoLeader):
            await call
        grown = [min(ASK_PAUSE_S[0] * 2**n, ASK_PAUSE_S[1]) * 0.75 for n in range(8)]
        assert [b - a for a, b in itertools.pairwise(times[:9])] == pytest.approx(grown)
        assert loop.time() == pytest.approx(101)
        assert loop.time() - times[-1] < ASK_PAUSE_S[1] * 0.75

    trying(work, attempt, 1.0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (replied(), "h:1: it does not lead"),
        (NotLeading("it is ill"), "h:1: it is ill"),
        (TimeoutError(), "h:1: TimeoutError"),
        (msgspec.DecodeError("rubbish"), "h:1: rubbish"),
        (None, "nobody was asked in time"),
    ],
)
def test_when_the_time_is_over_it_says_who_was_asked_last_and_what_came_of_it(answer, said):
    async def attempt(asked, timeout_s):
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def work(call, loop):
        with pytest.raises(NoLeader) as error:
            await call
        assert loop.time() == pytest.approx(103 if answer else 100)
        assert str(error.value) == (
            f"thing: no answer in time ({said}); whether it was done is unknown"
        )

    trying(work, attempt, 3.0 if answer else 0.0)


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (replied(b"done"), None),
        (replied(largest=77, too_large=True), PacketTooLarge),
        (Trimmed("gone"), Trimmed),
        (UsageError("absurd"), UsageError),
        (ValueError("a fault of ours"), ValueError),
    ],
)
def test_it_is_attempted_until_it_is_done_or_can_never_be(end, error):
    answers, told = [replied(), NotLeading("no"), b"junk", end], []

    async def attempt(asked, timeout_s):
        told.append((asked, timeout_s))
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Reply) else decoder(Reply)(answer)

    async def work(call, loop):
        with pytest.raises(error) if error else nullcontext():
            assert (await call).body == b"done"
        assert (told, answers) == ([("h:1", ATTEMPT_S)] * 4, [])

    trying(work, attempt)


def test_who_is_closed_meanwhile_makes_no_more_attempts():
    made = []

    def choose():
        if made:
            raise Closed("hung up")

    async def attempt(asked, timeout_s):
        made.append(timeout_s)
        return replied()

    async def work(call, loop):
        with pytest.raises(Closed):
            await call
        assert made == [ATTEMPT_S]

    trying(work, attempt, choose=choose)
