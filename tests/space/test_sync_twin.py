"""The synchronous twin: complete, up to date, safe from threads, interruptible, no hang at exit."""

import inspect
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import wormspace
import wormspace.sync
from wormspace import Allocated, BadUrl, Closed, NotAllocated, UsageError, Written, tx
from wormspace.smr import Counter, Eventual, LeaseLost, Lock, NoLeader, Queue
from wormspace.sync import attach, holding, taking
from wormspace.sync.background import Foreign

ROOT = Path(__file__).parents[2]
PAIRS = [
    (wormspace.Worm, wormspace.sync.Worm),
    (wormspace.Space, wormspace.sync.Space),
    (wormspace.Segment, wormspace.sync.Segment),
    (wormspace.Stream, wormspace.sync.Stream),
    (wormspace.log.Log, wormspace.sync.Log),
    (wormspace.log.Cursor, wormspace.sync.Cursor),
    (wormspace.smr.View, wormspace.sync.View),
    (wormspace.smr.Replica, wormspace.sync.Replica),
    (wormspace.smr.Remote, wormspace.sync.Remote),
    (wormspace.tx.Transaction, wormspace.sync.Transaction),
    (wormspace.tx.Site, wormspace.sync.Site),
]
NOT_FOR_USERS = {
    wormspace.Worm: {"deadline", "nonce"},
    wormspace.log.Log: {"open"},
    wormspace.smr.Replica: {"open"},
    wormspace.tx.Transaction: {"plan_now"},
    wormspace.tx.Site: {
        *("call", "check_open", "gauges", "gid", "held", "hold", "leave_segment", "manager"),
        *("new_id", "now", "open", "recognise", "sessions", "spawn", "take", "take_part"),
    },
}
FUNCTIONS = [
    (wormspace.connect, wormspace.sync.connect),
    (wormspace.smr.attach, wormspace.sync.attach),
    (wormspace.smr.holding, wormspace.sync.holding),
    (wormspace.smr.taking, wormspace.sync.taking),
]


@pytest.mark.parametrize(("asynchronous", "twin"), PAIRS, ids=lambda c: c.__name__)
def test_every_public_method_has_a_twin_with_the_same_parameters(asynchronous, twin):
    methods = {
        name: method
        for name, method in inspect.getmembers(asynchronous, inspect.isfunction)
        if not name.startswith("_") and name not in NOT_FOR_USERS.get(asynchronous, ())
    }
    assert methods
    for name, method in methods.items():
        theirs = inspect.signature(getattr(twin, name))
        ours = inspect.signature(method)
        if name == "run_transaction":  # whose `work` is a plain function
            assert [*theirs.parameters] == [*ours.parameters]
        else:
            assert theirs.parameters == ours.parameters, name
        assert not inspect.iscoroutinefunction(getattr(twin, name)), name
        assert getattr(twin, name).__doc__, name


@pytest.mark.parametrize(("asynchronous", "twin"), FUNCTIONS, ids=lambda f: f.__name__)
def test_every_function_has_a_twin_with_the_same_parameters(asynchronous, twin):
    ours, theirs = inspect.signature(asynchronous), inspect.signature(twin)
    assert list(ours.parameters) == list(theirs.parameters)
    for name, parameter in ours.parameters.items():
        assert parameter.default == theirs.parameters[name].default
    assert twin.__doc__


@pytest.mark.parametrize(("asynchronous", "twin"), PAIRS, ids=lambda c: c.__name__)
def test_every_public_attribute_has_a_twin_too(asynchronous, twin):
    about = (inspect.getdoc(asynchronous) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    named = set(re.findall(r"^    (\w+):", about, re.MULTILINE))
    named |= {name for name, _ in inspect.getmembers(asynchronous, lambda m: type(m) is property)}
    for name in named - {"closed", "metrics", "embedded"}:
        assert getattr(twin, name).__doc__, name


def test_whatever_a_connection_gives_its_twin_gives_too():
    given = {
        "Space",
        "Segment",
        "Log",
        "Cursor",
        "Replica",
        "Transaction",
        "Site",
        "Stream",
        "Worm",
    }
    assert given <= {*wormspace.sync.__all__}
    for name in wormspace.sync.__all__:
        assert getattr(wormspace.sync, name).__doc__, name


def test_a_replicated_object_without_asyncio():
    with wormspace.sync.connect("memory:") as worm:
        with worm.replicate(Lock, "lock") as lock, worm.replicate(Counter, "hits") as hits:
            assert (hits.add(2), hits.call(Counter.add, 3), hits.read()) == (2, 5, 5)
            assert hits.at(Eventual()).read() == 5
            assert hits.session().token == "0/0"
            with pytest.raises(AttributeError, match="no command or query 'subtract'"):
                hits.subtract(1)
            with pytest.raises(UsageError):
                hits.call(Lock.holder)
            assert hits.versions().current == 1
            with holding(lock, "me") as grant:
                assert (grant.owner, lock.holder()) == ("me", grant)
            assert lock.holder() is None
            with lock.listen(1) as events:
                assert [next(events), next(events)] == [(1, grant), (2, None)]
            member = hits.status().member
            with attach(Counter, "hits", [(member.host, member.port)]) as remote:
                assert remote.add(1) == 6
            with pytest.raises(Closed):
                remote.add(1)
        with pytest.raises(Closed):
            hits.add(1)


def test_an_attached_object_is_closed_with_the_connection():
    with wormspace.sync.connect("memory:") as worm:
        with pytest.raises(NoLeader):
            worm.attach(Counter, "hits")
        assert worm.replicate(Counter, "hits").add(1) == 1
        with worm.attach(Counter, "hits") as remote:
            assert remote.add(1) == 2
        with pytest.raises(Closed):
            remote.add(1)
        remote = worm.attach(Counter, "hits")
        assert (remote.read(), worm.spaces()) == (2, ["hits"])
    with pytest.raises(Closed):
        remote.read()


def test_work_is_run_again_in_this_thread_when_another_is_in_the_way(tmp_path):
    here, values = threading.current_thread(), []
    with wormspace.sync.connect("memory:") as worm:
        bank = worm.run(lambda: tx.KeyValueStore.open("bank", tx.LmdbStore(tmp_path)))

        def work(t):
            assert threading.current_thread() is here
            values.append(t[bank].get(b"n"))
            t[bank].put(b"n", b"%d" % len(values))
            if len(values) == 1:
                raise tx.Conflict("of the test")
            return t

        t = worm.run_transaction([bank], work)
        assert t.decision.committed
        assert values == [None, None], "the first was rolled back"
        for error in (ZeroDivisionError(), KeyboardInterrupt()):

            def fail(t, error=error):
                t[bank].put(b"n", b"lost")
                raise error

            with pytest.raises(type(error)) as raised:
                worm.run_transaction([bank], fail)
            assert raised.value is error
        with pytest.raises(tx.TimedOut):
            worm.run_transaction([bank], lambda t: time.sleep(0.3), timeout=0.2)
        with pytest.raises(UsageError, match="`work` is a function"):
            worm.run_transaction([bank], None)
        assert worm.run_transaction([bank], lambda t: t[bank].get(b"n")) == b"2"
        with pytest.raises(Closed):
            worm.run_transaction([bank], lambda t: worm.close())


def test_a_block_of_a_lease_ends_as_its_body_does():
    with wormspace.sync.connect("memory:") as worm, worm.replicate(Queue, "jobs") as jobs:
        jobs.put(b"resize")
        for error in (ZeroDivisionError(), KeyboardInterrupt(), StopIteration()):
            with pytest.raises(type(error)) as raised, taking(jobs) as job:
                raise error
            assert raised.value is error
            assert job.item == b"resize"
            assert jobs.size() == 1, "it was given back"
        with taking(jobs):
            pass
        assert jobs.size() == 0
        with pytest.raises(UsageError), holding(jobs, "me"):
            pass  # a queue is no lock
        with pytest.raises(UsageError, match=r"worm.replicate or attach gave"):
            taking(Queue())


def test_a_block_that_lost_its_lease_says_so_when_its_body_ends():
    with wormspace.sync.connect("memory:") as worm, worm.replicate(Lock, "lock") as lock:
        block = holding(lock, "me", 0.1)
        lock.release(block.__enter__().token)
        while not block._task.done():
            time.sleep(0.01)
        with pytest.raises(LeaseLost):
            block.__exit__(None, None, None)


def test_a_transaction_without_asyncio(tmp_path):
    with wormspace.sync.connect("memory:") as worm:
        bank = worm.run(lambda: tx.KeyValueStore.open("bank", tx.LmdbStore(tmp_path)))
        with worm.transaction([bank]) as t:
            t[bank].put(b"ann", b"3")
            assert t[bank].get(b"ann") == b"3"
        assert t.decision.committed
        error, t = ZeroDivisionError(), worm.transaction([bank])
        with pytest.raises(ZeroDivisionError) as raised, t:
            raise error
        assert (raised.value, t.decision.committed) == (error, False)
        with pytest.raises(TypeError), worm.transaction([bank]) as t:
            t[bank].put(b"ann")
        with pytest.raises(tx.Aborted), worm.transaction([bank]) as t:
            t.rollback()
        with pytest.raises(UsageError, match="not begun"):
            worm.transaction([bank]).commit()
        with worm.site() as site:
            assert site.recover() == []
            assert site.left_alone() == []
            site.detach(bank)
        worm.run(bank.close)


def test_a_foreign_session_and_what_it_gives_are_waited_for():
    class Cursor:
        def __aiter__(self):
            return self.rows()

        async def rows(self):
            for row in (1, 2):
                yield row

        async def fetchone(self):
            return 1

    class Session:
        is_open = True

        async def execute(self):
            return Cursor()

        @asynccontextmanager
        async def transaction(self):
            yield "savepoint"

        def plain(self):
            return 7

    with wormspace.sync.connect("memory:") as worm:
        session = Foreign(worm._background, Session())
        assert (session.is_open, session.plain(), session.execute().fetchone()) == (True, 7, 1)
        assert list(session.execute()) == [1, 2]
        with session.transaction() as savepoint:
            assert savepoint == "savepoint"
        with pytest.raises(AttributeError):
            getattr(session, "absent")  # noqa: B009


def test_a_log_without_asyncio(tmp_path):
    url = f"file:{tmp_path / 'store'}"
    with wormspace.sync.connect(url) as worm, worm.log("orders") as log:
        assert log.append(b"first") == 0
        assert log.append_many([b"second", b"third"], streams=["late"]) == [1, 2]
        assert log.read(1).body == b"second"
        with log.listen() as entries:
            assert [next(entries).body for _ in range(3)] == [b"first", b"second", b"third"]
            assert entries.wait(0.05) is None
            log.append(b"fourth")
            assert next(entries).position == 3
        assert [e.position for e in log.read_stream("late")] == [1, 2]
        log.cursor("billing").commit(2)
    with wormspace.sync.connect(url) as worm:
        log = worm.log("orders")
        assert log.cursor("billing").load() == 2
        assert (log.tail(), log.info().tail) == (4, 4)


def test_a_program_without_asyncio_writes_and_reads(tmp_path):
    url = f"file:{tmp_path / 'store'}"
    with wormspace.sync.connect(url) as worm:
        segment = worm.space("orders").alloc(b"what for", size=4)
        captured = segment.capture()
        segment.write(0, b"decided", captured.token)
        assert segment.read(0) == b"decided"
        assert (segment.space.name, segment.number, segment.size) == ("orders", 0, 4)
        assert segment.space.client is worm
    with wormspace.sync.connect(url) as worm:
        assert worm.space("orders").segment(0).read_range() == [b"decided", None, None, None]
        assert worm.space("orders").check(0) == b"what for"


def test_a_connection_that_cannot_be_made_leaves_no_thread_behind():
    before = threading.active_count()
    with pytest.raises(BadUrl):
        wormspace.sync.connect("nonsense:")
    assert threading.active_count() == before


def test_errors_arrive_as_they_are():
    with wormspace.sync.connect("memory:") as worm, pytest.raises(NotAllocated):
        worm.space("s").segment(0)


def test_many_threads_may_call_at_once():
    threads, each = 8, 25
    with wormspace.sync.connect("memory:") as worm:
        segment = worm.space("s").alloc(size=threads * each)
        token = segment.capture().token

        def write(first):
            for offset in range(first, first + each):
                segment.write(offset, b"%d" % offset, token)

        writers = [threading.Thread(target=write, args=(i * each,)) for i in range(threads)]
        for t in writers:
            t.start()
        for t in writers:
            t.join()
        assert segment.read_range() == [b"%d" % i for i in range(threads * each)]


def test_a_call_after_close_is_refused():
    worm = wormspace.sync.connect("memory:")
    segment = worm.space("s").alloc(size=1)
    events = segment.listen()
    assert isinstance(next(events), Allocated)
    worm.close()
    worm.close()
    for call in (
        lambda: segment.read(0),
        lambda: segment.capture(),
        lambda: worm.space("s").alloc(),
        lambda: worm.spaces(),
        lambda: next(events),
    ):
        with pytest.raises(Closed):
            call()


def test_closing_wakes_a_thread_that_waits():
    worm = wormspace.sync.connect("memory:")
    events = worm.space("s").listen()
    outcome = []

    def wait():
        try:
            next(events)
        except Closed as e:
            outcome.append(e)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while events._pending is None:
        time.sleep(0.001)
    worm.close()
    waiting.join(10)
    assert not waiting.is_alive()
    assert len(outcome) == 1


def test_listen_is_an_iterator_that_can_be_closed():
    with wormspace.sync.connect("memory:") as worm:
        space = worm.space("s")
        with space.listen() as events:
            segment = space.alloc(b"m", size=2)
            assert next(events) == Allocated(0, 2, b"m")
            assert events.wait(0.05) is None
            segment.unsafe_write(1, b"v")
            assert next(events) == Written(wormspace.Address(0, 1), b"v")
        with pytest.raises(StopIteration):
            next(events)
        assert list(events) == []


def test_closing_a_listener_from_another_thread_ends_the_iteration():
    with wormspace.sync.connect("memory:") as worm:
        events = worm.space("s").listen()
        seen = []
        consumer = threading.Thread(target=lambda: seen.extend(events))
        consumer.start()
        while events._pending is None:
            time.sleep(0.001)
        events.close()
        consumer.join(10)
        assert not consumer.is_alive()
        assert seen == []


INTERRUPTED = """
import os, signal, threading, wormspace.sync
worm = wormspace.sync.connect("memory:")
events = worm.space("s").listen()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    next(events)
except KeyboardInterrupt:
    worm.space("s").alloc(b"after", size=1)
    assert next(events).metadata == b"after"   # nothing was lost by giving up
    print("interrupted", flush=True)
worm.close()
"""

FORGOTTEN = """
import sys, wormspace.sync
worm = wormspace.sync.connect(sys.argv[1])
segment = worm.space("s").alloc(size=8)
segment.unsafe_write(0, b"v")
events = worm.space("s").listen()
next(events)
print("forgot to close", flush=True)
"""


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=30
    )


def test_ctrl_c_interrupts_a_waiting_call_and_loses_no_event():
    assert signal.getsignal(signal.SIGINT) is not None
    done = run(INTERRUPTED)
    assert (done.returncode, done.stdout.strip()) == (0, "interrupted"), done.stderr


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_program_that_forgets_to_close_ends_all_the_same(scheme, tmp_path):
    url = "memory:" if scheme == "memory" else f"file:{tmp_path / 'store'}"
    done = run(FORGOTTEN, url)
    assert (done.returncode, done.stdout.strip()) == (0, "forgot to close"), done.stderr
    assert done.stderr == ""
