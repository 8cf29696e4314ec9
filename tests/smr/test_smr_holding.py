"""A block that has something for a lease: when it asks, when it renews, what it gives back.

The lock and the queue are made up: each answers as a test says.  Time is virtual.
"""

import asyncio
import logging
import random

import pytest

from wormspace.errors import Unavailable, UsageError
from wormspace.sim import World
from wormspace.smr import LeaseLost, Lock, holding, taking
from wormspace.smr.holding import GIVING_BACK_S, POLL_S, RENEWALS_PER_LEASE, SURE, _going_on

LEASE_S = 9.0
GRANT = object()
CALLS = ("acquire", "renew", "release", "take", "finish", "give_back")


class Asked:
    """Answers each call by its name: what is an error is raised, what is a number is waited for."""

    def __init__(self, **says):
        self.says = {name: list(answers) for name, answers in says.items()}
        self.calls = []

    def __getattr__(self, name):
        if name not in CALLS:
            raise AttributeError(name)
        return lambda *given: self._answer(name, given)

    async def _answer(self, name, given):
        self.calls.append((asyncio.get_running_loop().time(), name, *given))
        answers = self.says.get(name, [GRANT])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        while isinstance(answer, float):
            await asyncio.sleep(answer)
            answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def names(self):
        return [name for _, name, *_ in self.calls]

    def times(self, name):
        return [at for at, one, *_ in self.calls if one == name]


def timely(work):
    def test(caplog):
        caplog.set_level(logging.INFO, "wormspace.smr")
        with World(0) as world:
            world.run(work(caplog), deadline_s=10_000)

    test.__name__ = work.__name__
    return test


def locked(lock, lease_s=LEASE_S):
    return holding(lock, "me", lease_s, rng=random.Random(7))


def token(seed=7):
    return f"{random.Random(seed).getrandbits(64):016x}"


# ---------------------------------------------------------------- what is asked


@timely
async def test_a_lock_is_asked_for_under_one_token_renewed_in_time_and_released(caplog):
    lock = Asked(acquire=[None, None, GRANT])
    async with locked(lock) as grant:
        assert grant is GRANT
        await asyncio.sleep(2.5 * LEASE_S / RENEWALS_PER_LEASE)
    assert len(token()) == 16
    step, begun = LEASE_S / RENEWALS_PER_LEASE, 2 * POLL_S
    assert lock.calls == [
        *((pytest.approx(n * POLL_S), "acquire", "me", LEASE_S, token()) for n in range(3)),
        *((pytest.approx(begun + n * step), "renew", token(), LEASE_S) for n in (1, 2)),
        (pytest.approx(begun + 2.5 * step), "release", token()),
    ]
    await asyncio.sleep(2 * LEASE_S)
    assert lock.names().count("renew") == 2


@timely
async def test_a_short_lease_is_asked_for_more_often_and_two_blocks_have_two_tokens(caplog):
    lock = Asked(acquire=[None, GRANT])
    async with holding(lock, "me", 0.15):
        pass
    async with holding(lock, "me", 0.15):
        pass
    assert lock.times("acquire") == pytest.approx([0, 0.05, 0.05])
    used = {given[-1] for _, name, *given in lock.calls if name == "acquire"}
    assert len(used) == 2


@timely
async def test_a_job_is_finished_or_given_back_as_the_block_ends(caplog):
    queue = Asked(take=[None, GRANT])
    async with taking(queue, LEASE_S, rng=random.Random(8)) as job:
        assert job is GRANT
        await asyncio.sleep(4)
    mine = token(8)
    assert [call[1:] for call in queue.calls] == [
        ("take", LEASE_S, mine),
        ("take", LEASE_S, mine),
        ("renew", mine, LEASE_S),
        ("finish", mine),
    ]
    with pytest.raises(KeyError):
        async with taking(queue, LEASE_S, rng=random.Random(8)):
            raise KeyError
    assert queue.calls[-1][1:] == ("give_back", mine)


@pytest.mark.parametrize("lacking", ["acquire", "renew", "release"])
def test_a_lock_is_told_by_its_commands(lacking):
    names = {name: print for name in ("acquire", "renew", "release") if name != lacking}
    with pytest.raises(UsageError, match=f"a lock has a method '{lacking}'"):
        holding(type("Wrong", (), names)(), "me")


@pytest.mark.parametrize("lacking", ["take", "renew", "finish", "give_back"])
def test_a_queue_is_told_by_its_commands(lacking):
    names = {name: print for name in ("take", "renew", "finish", "give_back") if name != lacking}
    with pytest.raises(UsageError, match=f"a queue has a method '{lacking}'"):
        taking(type("Wrong", (), names)())


def test_what_a_block_cannot_have_is_refused():
    lock = Asked()
    for make, words in [
        (lambda: holding(lock, 7), "an owner's name is a str, not int"),
        (lambda: holding(lock, "me", 0), "a lease is a positive number"),
        (lambda: taking(lock, -1), "a lease is a positive number"),
        (lambda: holding(lock, "me", rng=7), "rng"),
        (lambda: holding(Lock(), "me"), "not a bare Lock"),
        (lambda: taking(Lock), "a queue is an object"),
    ]:
        with pytest.raises(UsageError, match=words):
            make()


@timely
async def test_a_lease_is_held_by_a_task(caplog):
    said, lock = [], Asked()

    def outside():
        try:
            locked(lock).__aenter__().send(None)
        except UsageError as e:
            said.append(str(e))

    asyncio.get_running_loop().call_soon(outside)
    await asyncio.sleep(1)
    assert (said, lock.calls) == (["a lease is held by a task"], [])


# ---------------------------------------------------------------- how it is lost


@timely
async def test_what_is_not_renewed_any_more_ends_the_block(caplog):
    lock = Asked(renew=[GRANT, None])
    loop = asyncio.get_running_loop()
    with pytest.raises(LeaseLost) as found:
        async with locked(lock):
            await asyncio.sleep(99)
    assert loop.time() == pytest.approx(2 * LEASE_S / RENEWALS_PER_LEASE)
    assert str(found.value) == "the lock of 'me': its lease had ended, or somebody ended it"
    await asyncio.sleep(1)
    assert lock.names() == ["acquire", "renew", "renew", "release"]
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (Unavailable("no server"), "its lease was not renewed in time: no server"),
        (Unavailable(""), "its lease was not renewed in time: it took too long"),
        (99.0, "its lease was not renewed in time: it took too long"),
        (ValueError("odd"), "renewing its lease failed: ValueError('odd')"),
    ],
)
def test_a_lease_that_cannot_be_renewed_ends_before_somebody_else_may_have_it(trouble, words):
    async def work():
        lock = Asked(acquire=[2.0, GRANT], renew=[GRANT, trouble])
        loop = asyncio.get_running_loop()
        with pytest.raises(LeaseLost) as found:
            async with locked(lock):
                await asyncio.sleep(99)
        assert str(found.value) == f"the lock of 'me': {words}"
        renewed = lock.times("renew")[0]
        if not isinstance(trouble, ValueError):
            assert loop.time() == pytest.approx(renewed + SURE * LEASE_S)

    with World(0) as world:
        world.run(work(), deadline_s=1000)


@timely
async def test_a_lease_counts_from_when_it_was_asked_for(caplog):
    lock = Asked(acquire=[6.0, GRANT], renew=[Unavailable("x")])
    loop = asyncio.get_running_loop()
    with pytest.raises(LeaseLost):
        async with locked(lock):
            await asyncio.sleep(99)
    assert loop.time() == pytest.approx(SURE * LEASE_S)
    began = loop.time()
    late = Asked(acquire=[LEASE_S, GRANT])
    with pytest.raises(LeaseLost, match="not renewed in time"):
        async with locked(late):
            await asyncio.sleep(99)
    await asyncio.sleep(0)
    assert late.names() == ["acquire", "release"], "it has ended before it could be renewed"
    assert loop.time() == pytest.approx(began + LEASE_S)


@timely
async def test_a_renewal_that_works_again_keeps_it(caplog):
    lock = Asked(renew=[GRANT, Unavailable("x"), GRANT])
    async with locked(lock):
        await asyncio.sleep(5 * LEASE_S)
    assert lock.names().count("renew") == 14


@timely
async def test_a_block_that_ends_otherwise_says_how(caplog):
    for error in (KeyError("own"), asyncio.CancelledError()):
        lock = Asked(renew=[None])
        with pytest.raises(type(error)):
            async with locked(lock):
                raise error
        assert lock.names() == ["acquire", "release"]

    async def ignoring(error):
        async with locked(Asked(renew=[None])):
            try:
                await asyncio.sleep(99)
            except asyncio.CancelledError:
                if error is not None:
                    raise error from None

    class Given(asyncio.CancelledError):
        """What a library may make of a cancellation."""

    for error, raised in ((KeyError("own"), KeyError), (None, LeaseLost), (Given(), LeaseLost)):
        with pytest.raises(raised):
            await ignoring(error)
        assert asyncio.current_task().cancelling() == 0


@timely
async def test_a_cancel_from_elsewhere_stays_one_and_a_block_in_a_cancelled_task_can_be_lost(
    caplog,
):
    async def work(outer):
        try:
            await asyncio.sleep(99)
        except asyncio.CancelledError:
            with pytest.raises(LeaseLost):  # this task was cancelled before
                async with locked(Asked(renew=[None])):
                    await asyncio.sleep(99)
            outer.append(asyncio.current_task().cancelling())
            with pytest.raises(LeaseLost):
                await forgiving()
            outer.append(asyncio.current_task().cancelling())

    async def forgiving():
        async with locked(Asked(renew=[None])):
            asyncio.current_task().uncancel()  # the block ends what came before it
            await asyncio.sleep(99)

    outer = []
    task = asyncio.ensure_future(work(outer))
    await asyncio.sleep(1)
    task.cancel()
    await task
    assert outer == [1, 0]

    async def block(lock):
        async with locked(lock):
            await asyncio.sleep(99)

    lock = Asked(renew=[None])
    task = asyncio.ensure_future(block(lock))
    await asyncio.sleep(LEASE_S / RENEWALS_PER_LEASE)
    task.cancel()  # in the very turn in which it is lost
    await asyncio.wait([task])
    assert task.cancelled()


# ---------------------------------------------------------------- giving back


@timely
async def test_the_end_of_a_block_waits_for_so_long_and_it_is_given_back_all_the_same(caplog):
    loop, before = asyncio.get_running_loop(), len(_going_on)
    for takes, waits in ((0.5, 0.5), (20.0, GIVING_BACK_S)):
        lock, began = Asked(release=[takes, GRANT]), loop.time()
        async with locked(lock):
            pass
        assert loop.time() - began == pytest.approx(waits)
        assert len(_going_on) - before == (takes > waits)
        await asyncio.sleep(takes)
        assert len(_going_on) == before
    lock, began = Asked(renew=[None], release=[0.5, GRANT]), loop.time()
    with pytest.raises(LeaseLost):
        async with locked(lock):
            await asyncio.sleep(99)
    assert loop.time() - began == pytest.approx(LEASE_S / RENEWALS_PER_LEASE), (
        "it is not waited for"
    )
    await asyncio.sleep(1)
    assert lock.names()[-1] == "release"


@timely
async def test_what_cannot_be_given_back_is_told_of(caplog):
    async with locked(Asked(release=[Unavailable("no server")])):
        pass
    words = "the lock of 'me' was not given back, its lease must run out: no server"
    assert caplog.messages == [words]


@pytest.mark.parametrize(
    ("acquire", "given_back"),
    [
        ([5.0, GRANT], True),
        ([5.0, None], False),
        ([5.0, Unavailable("whether it was got is unknown")], True),
    ],
)
def test_who_is_cancelled_while_it_waits_gives_back_what_it_may_have_got(acquire, given_back):
    async def work():
        lock = Asked(acquire=acquire)
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(locked(lock).__aenter__())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert loop.time() == pytest.approx(1 + GIVING_BACK_S)
        await asyncio.sleep(9)
        assert lock.names() == ["acquire"] + ["release"] * given_back
        assert lock.times("release") == [5.0] * given_back

    with World(0) as world:
        world.run(work(), deadline_s=1000)


@timely
async def test_who_cannot_have_it_is_told_and_gives_back_what_it_may_have_got(caplog):
    lock = Asked(acquire=[Unavailable("unknown")])
    with pytest.raises(Unavailable):
        await locked(lock).__aenter__()
    await asyncio.sleep(1)
    assert lock.names() == ["acquire", "release"]
    for error in (UsageError("no"), ValueError("no")):
        lock = Asked(acquire=[error])
        with pytest.raises(type(error)):
            await locked(lock).__aenter__()
        await asyncio.sleep(1)
        assert lock.names() == ["acquire"], "nothing was asked for"
    queue = Asked(take=[Unavailable("unknown")])
    with pytest.raises(Unavailable):
        await taking(queue, LEASE_S).__aenter__()
    await asyncio.sleep(1)
    assert queue.names() == ["take", "give_back"], "it is not finished"
