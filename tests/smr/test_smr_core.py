"""A replica's core: how it begins and ends, and why it stops."""

import asyncio
import random

import pytest
from cores import (
    METHODS,
    OTHER,
    SIZE,
    NoService,
    Notes,
    begun,
    learn,
    made,
    nobody_calls,  # noqa: F401 - a fixture
    on,
    packet,
)

from virtual import virtually
from wormspace.errors import Closed, ProtocolViolation, UsageError
from wormspace.knobs import turned
from wormspace.smr import Eventual, Linearizable, Tuning
from wormspace.smr import core as core_module
from wormspace.smr.consistency import Session
from wormspace.smr.errors import Diverged, Stopped
from wormspace.smr.records import NOOP, Mark, Member
from wormspace.smr.replica_context import NotLeading
from wormspace.smr.upgrading import Upgrades
from wormspace.smr.views import Status
from wormspace.space import Address

# ---------------------------------------------------------------- beginning and ending


@on
async def test_a_replica_has_a_name_an_id_and_an_address(worm, caplog):
    core, puppet = await made(worm)
    identity = random.Random(7)
    identity.getrandbits(64)  # the client's id
    mine = identity.getrandbits(64).to_bytes(8, "big")
    assert core.context.member == Member("r1", mine, "here", 4242)
    own = f"smr/thing/{mine.hex()}/fetch"
    assert (core.service.at, own in core.service.handlers) == (("here", 0), True)
    assert puppet.context is core.context
    assert (core.context.service, core.context.space.name) == ("smr/thing", "thing")
    assert (core.context.clock(), core.context.tuning.segment_size) == (50, SIZE)
    assert (type(core.learner.engine.machine), core.router.timeout_s) == (Notes, 5)
    assert core.context.space is worm.space("thing")
    assert core.context.largest_packet == core._submitter.largest
    assert core._submitter.is_sure
    nameless, _ = await made(worm, replica="", port=99)
    assert nameless.context.member.name == "here:99"
    puppet.leader = OTHER
    assert core.status() == Status(core.context.member, Address(0, 0), OTHER, True, "", 0)


@on
async def test_a_port_that_cannot_be_had_leaves_nothing(worm, caplog):
    with pytest.raises(OSError, match="in use"):
        await made(worm, port=13)
    assert NoService.made[-1].stopped == 1


@pytest.mark.parametrize("has_store", [False, True])
@pytest.mark.parametrize("trimmed", [0, 1])
@pytest.mark.parametrize("upgrade_s", [0.0, 0.25])
def test_it_begins_with_what_is_kept_then_with_what_others_have(
    has_store, trimmed, upgrade_s, monkeypatch
):
    calls = []

    async def noting(name, *given):
        calls.append((name, *given))

    monkeypatch.setattr(core_module.catching_up, "restore_from", lambda *a: noting("restore", *a))
    monkeypatch.setattr(core_module.catching_up, "catch_up", lambda *a: noting("catch up", *a))
    monkeypatch.setattr(Upgrades, "run", lambda _, *a: noting("upgrade", *a))

    async def work(worm):
        core, puppet = await made(worm, tuning=Tuning(segment_size=SIZE, upgrade_s=upgrade_s))
        puppet.store = store = object() if has_store else None
        for _ in range(2):
            await core.learner.space.alloc(core.context.segment_metadata(), SIZE)
        await core.learner.space.trim_prefix(trimmed)
        await core.start()
        await asyncio.sleep(3.5)
        expected = [("restore", core.context, store)] * has_store
        expected += [("catch up", core.context, store)] * trimmed
        assert calls == expected + [("upgrade", upgrade_s)] * (upgrade_s > 0)
        assert puppet.ran == [(), (core.context, puppet)]
        await core.close()

    virtually(work)


@on
async def test_it_looks_at_leases_and_keeps_in_touch_while_it_runs(worm, caplog):
    core, puppet = await made(worm)
    done = []

    async def watching():
        done.append("leases")

    async def touching(greet_all):
        done.append(("touch", greet_all))

    core.context.watch_leases, core.context.keep_in_touch = watching, touching
    await core.start()
    puppet.leads = False  # it was asked before
    await asyncio.sleep(1)
    assert done == ["leases", ("touch", True)]
    assert len(core._tasks) == 2, "what has ended is not held"
    await core.close()


@on
async def test_another_strategy_is_refused_before_anything_runs(worm, caplog):
    one, _ = await begun(worm)
    other, puppet = await made(worm)
    other.learner.strategy = "another"
    with pytest.raises(UsageError, match="puppet"):
        await other.start()
    assert puppet.ran == []
    await one.close()


@on
async def test_who_is_closed_has_nothing_that_runs_and_says_so(worm, caplog):
    core, puppet = await begun(worm)
    ended, bell, closing = [], core.bells.hang(), []

    async def at_work():
        try:
            await asyncio.sleep(99)
        finally:
            await asyncio.sleep(0.5)
            ended.append("task")

    core._tasks.spawn(at_work())
    heard = asyncio.ensure_future(bell.heard())
    puppet.latest = Address(3, 0)  # so the query waits
    with turned(smr_packets_under_way=1):
        calls = [core.command(METHODS["note"], (1,), Session())]
        await asyncio.sleep(0.1)
        calls.append(core.command(METHODS["note"], (2,), Session()))
        calls.append(core.query(METHODS["count"], (1,), Linearizable(), Session()))
        await asyncio.sleep(0.1)
    assert len(puppet.offered) == 1
    core.learner.stop_listening = lambda: closing.append("deaf")
    core.context.close = lambda: asyncio.sleep(0, closing.append("context"))
    await core.close()
    assert ended == ["task"], "it was waited for"
    assert closing == ["deaf", "context"]
    assert core.service.stopped == 1
    assert not core._tasks
    await asyncio.sleep(0)
    assert heard.done()
    said = [str(future.exception()) for future in calls]
    assert [type(future.exception()) for future in calls] == [Closed] * 3
    assert ["unknown" in one for one in said] == [True, False, True]
    with pytest.raises(Closed, match="the replica is closed"):
        core.require_sound()
    for level in (Eventual(), Linearizable()):
        with pytest.raises(Closed):
            core.query(METHODS["count"], (1,), level, Session())
    with pytest.raises(Closed):
        core.command(METHODS["note"], (1,), Session())
    core._on_failed(ValueError("too late"))
    assert core.failed is None
    await core.close()


# ---------------------------------------------------------------- why it stops


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (ValueError("no good"), "ValueError: no good"),
        (MemoryError("full"), "out of memory at position 0/1 (MemoryError: full)"),
        (Diverged("other state"), "other state"),
    ],
)
def test_one_of_its_tasks_that_fails_stops_it_and_it_says_why(trouble, words):
    async def work(worm):
        core, _ = await begun(worm)
        learn(core, 0)
        waiting = core.context.waiting[b"c", 1] = asyncio.get_running_loop().create_future()
        deaf, other = [], core._tasks.spawn(asyncio.sleep(99))
        core.learner.stop_listening = lambda: deaf.append(True)

        async def fail():
            raise trouble

        core._tasks.spawn(core._guard(fail))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        failed = core.failed
        if isinstance(trouble, Diverged):
            assert failed is trouble
        else:
            assert type(failed) is Stopped
            assert failed.__cause__ is trouble
        assert words in str(failed)
        assert core.status().failed == str(failed)
        assert (deaf, core._closed) == ([True], False)
        with pytest.raises(NotLeading, match="the replica has stopped: "):
            await waiting
        await asyncio.sleep(0.1)
        assert other.cancelled()
        assert not core._tasks
        for call in (
            lambda: core.command(METHODS["note"], (1,), Session()),
            lambda: core.query(METHODS["count"], (1,), Eventual(), Session()),
            core.require_sound,
        ):
            with pytest.raises(type(failed)) as found:
                call()
            assert found.value is failed
        core._on_failed(ValueError("and another"))
        assert core.failed is failed
        await core.close()

    virtually(work)


@on
async def test_a_replica_that_stops_is_told_of_once_and_a_closed_client_is_no_failure(worm, caplog):
    core, _ = await begun(worm)

    async def closed():
        raise Closed("the client is closed")

    core._tasks.spawn(core._guard(closed))
    await asyncio.sleep(0.1)
    assert (core.failed, caplog.messages) == (None, [])
    core._on_failed(ValueError("x"))
    core._on_failed(ValueError("y"))
    assert caplog.messages == [f"thing: replica {core.context.member} has stopped: ValueError: x"]
    await core.close()


# ---------------------------------------------------------------- what the learner says


@on
async def test_whoever_waits_for_a_packet_has_its_outcome_and_others_go_on_waiting(worm, caplog):
    core, _ = await begun(worm)
    loop, bell = asyncio.get_running_loop(), core.bells.hang()
    heard = asyncio.ensure_future(bell.heard())
    keys = [(b"client 1", 1), (b"client 1", 2), (b"client 2", 1), (b"client 2", 2)]
    futures = {key: loop.create_future() for key in keys}
    core.context.waiting.update(futures)
    futures[keys[1]].cancel()
    await asyncio.sleep(0)
    learn(core, 0, packet(1, 5), packet(2, 6), packet(1, 7, client=b"client 2"))
    await asyncio.sleep(0)
    assert heard.done(), "whoever follows looks again"
    assert [future.done() for future in futures.values()] == [True, True, True, False]
    assert futures[keys[0]].result() == core.learner.engine.sessions.find(packet(1, 5))
    assert core.context.waiting == {keys[3]: futures[keys[3]]}
    futures[keys[3]].cancel()
    await core.close()


@on
async def test_at_an_audit_a_leader_claims_its_digest_and_others_compare(worm, caplog):
    core, puppet = await begun(worm)
    learn(core, 0, packet(1, 5), audit=False)
    core.learner.learn(Address(0, 1), NOOP)
    await asyncio.sleep(0.1)
    assert core.context.audited is None
    learn(core, 2, audit=True)
    await asyncio.sleep(0.1)
    mark = core.context.audited
    assert mark.position == Address(0, 3)
    core.context.audited, puppet.leads = None, False
    learn(core, 3, packet(2, 6), audited=mark)
    assert core.failed is None
    learn(core, 4, audit=True)
    await asyncio.sleep(0.1)
    assert core.context.audited is None, "only a leader claims something"
    learn(core, 5, audited=Mark(Address(0, 5), b"something else"))
    assert type(core.failed) is Diverged
    place = f"the state of {core.context.member} at position 0/5 differs from the proposer's"
    assert str(core.failed).startswith(f"thing: {place}")
    await core.close()


def test_what_is_missing_is_fetched_once_at_a_time_and_what_fails_stops_the_replica(monkeypatch):
    async def work(worm):
        core, puppet = await begun(worm)
        puppet.store = object()
        asked, gate = [], asyncio.Event()

        async def catch_up(*given):
            asked.append(given)
            await gate.wait()
            if len(asked) == 2:
                raise ProtocolViolation("nobody has it")

        monkeypatch.setattr(core_module.catching_up, "catch_up", catch_up)
        for _ in range(2):
            core.learner._on_missing()
            await asyncio.sleep(0.1)
        assert asked == [(core.context, puppet.store)]
        gate.set()
        await asyncio.sleep(0.1)
        assert core.failed is None
        core.learner._on_missing()
        await asyncio.sleep(0.1)
        assert len(asked) == 2
        assert str(core.failed) == "nobody has it"
        await core.close()

    virtually(work)
