"""The safety rules of docs/safety.md, one by one: each has a check, and the check can fail.

A check is a small story on three servers with the wires in our hand.  Its second test breaks the
rule in the product (by replacing the function that keeps it) and shows that the check notices.
"""

import asyncio
import random

import pytest

import wormspace
from inprocess import IDENTITY, serving
from wires import World, world
from wormspace import AlreadyWritten, CaptureLost, Refused, TokenReused, Unavailable, WormError
from wormspace.addresses import TRIM
from wormspace.paxos import acceptor, prepare, reading
from wormspace.paxos import quorum as quorum_module
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import Capture, Promise, Read, Reject, Trim, Write, Written
from wormspace.paxos.ranges import Range, overlay
from wormspace.registers.paxos import client
from wormspace.registers.paxos.client import PaxosRegisters
from wormspace.registers.paxos.partition import Partition
from wormspace.registers.token import Token
from wormspace.server import acceptors, identity, runner, tables
from wormspace.server.config import ClusterConfig, ServerConfig
from wormspace.server.identity import Identity
from wormspace.server.limits import ServerIdentity
from wormspace.server.local import LocalLink
from wormspace.server.node import Node
from wormspace.server.storage import AcceptorStore
from wormspace.space import Client
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.membership import Membership

B1, B2, B3 = (ballot(n, b"proposer") for n in (1, 2, 3))


class Violated(Exception):
    """A check has found the rule broken."""


def must(holds, what):
    if not holds:
        raise Violated(what)


class Port:
    def __init__(self):
        self.answers = []

    def answer(self, request_id, message):
        self.answers.append(message)

    def congested(self):
        return False


async def ask(node, *messages):
    """The answers of a node to messages, one after another."""
    port = Port()
    for i, m in enumerate(messages):
        node.submit(port, i + 1, m)
        while len(port.answers) <= i:  # noqa: ASYNC110 - a turn of the loop is the event
            await asyncio.sleep(0)
    return port.answers


async def outcome(call):
    """What became of a call, as a value."""
    try:
        return await call
    except WormError as e:
        return e


# ---------------------------------------------------------------------------- 1. durable first


async def check_durable_before_answer():
    done = asyncio.Event()

    class Slow(MemoryEngine):
        async def commit(self, batch):
            await done.wait()
            await super().commit(batch)

    node, port = Node(Slow()), Port()
    node.submit(port, 1, Capture("s", 0, 0, 4, B1))
    node.submit(port, 2, Write("s", 0, B1, [0], [b"v"]))
    for _ in range(20):
        await asyncio.sleep(0)
    early = list(port.answers)
    done.set()
    await node.stop()
    must(not early, f"answered before the commit was done: {early}")
    must(len(port.answers) == 2, "not answered at all")


async def test_durable_before_answer():
    await check_durable_before_answer()


async def test_durable_before_answer_can_fail(monkeypatch):
    async def answer_first(self, queued):
        batch = self._engine.begin()
        answers, _ = self._handle(batch, queued)
        self._answer(queued, answers)
        await self._engine.commit(batch)

    monkeypatch.setattr(Node, "_commit", answer_first)
    with pytest.raises(Violated):
        await check_durable_before_answer()


async def check_a_crash_forgets_nothing(path):
    engine = AcceptorStore(path)
    node = Node(engine)
    await ask(node, Capture("s", 0, 0, 4, B2), Write("s", 0, B2, [0], [b"v"]))
    await ask(node, Write("s", 0, B3, [1], [b"w"]))
    await node.stop()
    node = Node(AcceptorStore(path))
    report, low, raised = await ask(
        node,
        Read("s", 0, [(0, 4)]),
        Capture("s", 0, 2, 3, B1),
        Capture("s", 0, 1, 2, B2),
    )
    await node.stop()
    must([(r.offset, r.value) for r in report.rows] == [(0, b"v"), (1, b"w")], "rows forgotten")
    must(low == Reject(B2), "a promise was forgotten")
    must(raised == Reject(B3), "the promise that comes with accepting was forgotten")


async def test_a_crash_forgets_nothing(tmp_path):
    await check_a_crash_forgets_nothing(tmp_path)


@pytest.mark.parametrize("table", [tables.PROMISES, tables.ROWS])
async def test_a_crash_forgets_nothing_can_fail(table, tmp_path, monkeypatch):
    stop = Node.stop

    async def forgetful(self):
        batch = self._engine.begin()
        for key, _ in list(batch.scan(table, b"", b"\xff" * 300)):
            batch.delete(table, key)
        await self._engine.commit(batch)
        await stop(self)

    monkeypatch.setattr(Node, "stop", forgetful)
    with pytest.raises(Violated):
        await check_a_crash_forgets_nothing(tmp_path)


# ---------------------------------------------------------------------------- 2. all or nothing


async def check_a_capture_is_all_or_nothing():
    node = Node(MemoryEngine())
    _, refused, below = await ask(
        node,
        Capture("s", 0, 2, 3, B2),
        Capture("s", 0, 0, 6, B1),
        Write("s", 0, ballot(0 + 1, b"\0" * 8), [5], [b"v"]),
    )
    await node.stop()
    must(refused == Reject(B2), f"a capture with a higher promise inside was granted: {refused}")
    must(below == Written([]), "a refused capture left a promise behind")


async def test_a_capture_is_all_or_nothing():
    await check_a_capture_is_all_or_nothing()


async def test_a_capture_is_all_or_nothing_can_fail(monkeypatch):
    def partial(promises, lo, hi, b):
        """Grants what it can."""
        for o in range(lo, hi):
            if b > acceptor.ballot_at(promises, o):
                promises = overlay(promises, Range(o, o + 1, b))
        return promises, acceptor.highest(promises, lo, hi)

    monkeypatch.setattr(acceptors, "on_capture", partial)
    with pytest.raises(Violated):
        await check_a_capture_is_all_or_nothing()


async def check_accepting_raises_the_promise():
    node = Node(MemoryEngine())
    accepted, capture, write = await ask(
        node,
        Write("s", 0, B2, [0], [b"new"]),
        Capture("s", 0, 0, 1, B1),
        Write("s", 0, B1, [0], [b"old"]),
    )
    await node.stop()
    must(accepted == Written([]), "not accepted")
    must(isinstance(capture, Reject), "a capture below an accepted ballot was granted")
    must(write.refused, "a write below an accepted ballot was accepted")


async def test_accepting_raises_the_promise():
    await check_accepting_raises_the_promise()


async def test_accepting_raises_the_promise_can_fail(monkeypatch):
    def lazy(promises, row, offset, b, value):
        _, after, verdict = acceptor.on_write(promises, row, offset, b, value)
        return promises, after, verdict

    monkeypatch.setattr(acceptors, "on_write", lazy)
    with pytest.raises(Violated):
        await check_accepting_raises_the_promise()


# ---------------------------------------------------------------------------- 3. one value a ballot


async def check_a_client_remembers_what_it_issued(w: World):
    """The first value may have reached a server; a second one must never leave."""
    client = w.client()
    segment = await client.space("s").alloc(size=2)
    token = (await segment.capture()).token
    for wire in client.wires[1:]:
        wire.drop = lambda m: isinstance(m, Write)
    first = await outcome(segment.write(0, b"first", token, timeout=0.1))
    must(isinstance(first, Unavailable), first)
    second = await outcome(segment.write(0, b"second", token, timeout=0.1))
    sent = {v for wire in client.wires for m in wire.sent if isinstance(m, Write) for v in m.values}
    must(b"second" not in sent, "two values were sent under one ballot")
    must(isinstance(second, TokenReused), second)


async def test_a_client_remembers_what_it_issued():
    async with world() as w:
        await check_a_client_remembers_what_it_issued(w)


async def test_a_client_remembers_what_it_issued_can_fail(monkeypatch):
    issue = client.PaxosRegisters._issue

    def forgetful(self, stream, offset, value, deadline):
        stream.issued.open.pop(offset, None)
        stream.issued.doubt.pop(offset, None)
        return issue(self, stream, offset, value, deadline)

    monkeypatch.setattr(client.PaxosRegisters, "_issue", forgetful)
    async with world() as w:
        with pytest.raises(Violated):
            await check_a_client_remembers_what_it_issued(w)


async def check_a_token_names_what_was_taken(w: World):
    """Its holder on another machine knows nothing else of what its ballot stands for already."""
    one, two = w.client(), w.client()
    segment = await one.space("s").alloc(size=2)
    await segment.write(0, b"v", (await segment.capture()).token)
    token = Token.parse(str((await segment.capture()).token))
    same = await two.space("s").segment(0)
    result = await outcome(same.write(0, b"w", token))
    sent = {v for wire in two.wires for m in wire.sent if isinstance(m, Write) for v in m.values}
    must(b"w" not in sent, "a second value was sent under the ballot that completed the first")
    must(isinstance(result, AlreadyWritten), result)


async def test_a_token_names_what_was_taken():
    async with world() as w:
        await check_a_token_names_what_was_taken(w)


async def test_a_token_names_what_was_taken_can_fail(monkeypatch):
    monkeypatch.setattr(Token, "is_free", Token.covers)
    async with world() as w:
        with pytest.raises(Violated):
            await check_a_token_names_what_was_taken(w)


async def check_an_acceptor_refuses_a_second_value(w: World):
    """A token at two places at once: the place that comes second must not overwrite."""
    one, two = w.client(), w.client()
    segment = await one.space("s").alloc(size=2)
    token = (await segment.capture()).token
    await segment.write(0, b"first", token)
    same = await two.space("s").segment(0)
    second = await outcome(same.write(0, b"second", Token.parse(str(token))))
    must(isinstance(second, WormError), "two values were decided under one ballot")
    must(await segment.read(0) == b"first", "a decided value has changed")


async def test_an_acceptor_refuses_a_second_value():
    async with world() as w:
        await check_an_acceptor_refuses_a_second_value(w)


async def test_an_acceptor_refuses_a_second_value_can_fail(monkeypatch):
    def trusting(promises, row, offset, b, value):
        blank = acceptor.Row(offset)
        return acceptor.on_write(promises, blank, offset, b, value)

    monkeypatch.setattr(acceptors, "on_write", trusting)
    async with world() as w:
        with pytest.raises(Violated):
            await check_an_acceptor_refuses_a_second_value(w)


# ---------------------------------------------------------------------------- 4. complete first


async def check_a_capture_completes_what_it_meets(w: World):
    """A write that reached one server, or two, may be decided: the captor cannot know."""
    writer, captor, reader = w.client(), w.client(), w.client()
    segment = await writer.space("s").alloc(size=2)
    token = (await segment.capture()).token
    writer.wires[2].drop = lambda m: isinstance(m, Write)
    for wire in writer.wires:
        wire.held = []  # accepted by two of three, so decided, and nobody was told
    must(
        isinstance(await outcome(segment.write(0, b"decided", token, timeout=0.1)), Unavailable),
        "told",
    )
    captor.wires[0].cut()  # meets it on one server only
    same = await captor.space("s").segment(0)
    captured = await same.capture()
    must(dict(captured.written) == {0: b"decided"}, f"the capture met {dict(captured.written)}")
    await outcome(same.write(0, b"other", captured.token))
    for down in range(3):
        reader.wires[down].cut()
        held = await (await reader.space("s").segment(0)).read(0)
        must(held == b"decided", f"read {held} without server {down}")
        reader.wires[down].mend()


async def test_a_capture_completes_what_it_meets():
    async with world() as w:
        await check_a_capture_completes_what_it_meets(w)


async def test_a_capture_completes_what_it_meets_can_fail(monkeypatch):
    monkeypatch.setattr(prepare, "on_promise", ignoring_rows(prepare.on_promise))
    async with world() as w:
        with pytest.raises(Violated):
            await check_a_capture_completes_what_it_meets(w)


def ignoring_rows(on_promise):
    def handler(c, server, p):
        return on_promise(c, server, Promise([], p.next))

    return handler


async def check_the_highest_ballot_is_completed(w: World):
    """Of two half-written values only the one with the higher ballot can have been decided."""
    a, b, c = w.client(), w.client(), w.client()
    segment = await a.space("s").alloc(size=1)
    token = (await segment.capture()).token
    for wire in a.wires[1:]:
        wire.drop = lambda m: isinstance(m, Write)
    await outcome(segment.write(0, b"old", token, timeout=0.1))  # on s0 alone
    b.wires[0].cut()
    same = await b.space("s").segment(0)
    await same.write(0, b"new", (await same.capture()).token)  # decided on s1 and s2
    c.wires[1].cut()  # meets one of each
    captured = await (await c.space("s").segment(0)).capture()
    must(captured.written[0] == b"new", "the captor completed a value that cannot be decided")


async def test_the_highest_ballot_is_completed():
    async with world() as w:
        await check_the_highest_ballot_is_completed(w)


async def test_the_highest_ballot_is_completed_can_fail(monkeypatch):
    monkeypatch.setattr(prepare, "better", lambda a, b: a if a.ballot < b.ballot else b)
    async with world() as w:
        with pytest.raises(Violated):
            await check_the_highest_ballot_is_completed(w)


async def check_a_capture_returns_only_when_what_it_met_is_decided(w: World):
    """Its holder trusts `taken` and `written`: they must be for ever, not on their way."""
    writer, captor = w.client(), w.client()
    segment = await writer.space("s").alloc(size=1)
    token = (await segment.capture()).token
    for wire in writer.wires[1:]:
        wire.drop = lambda m: isinstance(m, Write)
    await outcome(segment.write(0, b"half", token, timeout=0.1))
    captor.wires[2].cut()
    captured = await (await captor.space("s").segment(0)).capture()
    holders = 0
    for node in w.nodes:
        (report,) = await ask(node, Read("s", 0, [(0, 1)]))
        holders += any(r.ballot == captured.token.fence for r in report.rows)
    must(captured.written == {0: b"half"}, "not met")
    must(holders >= 2, f"the capture returned with {holders} servers holding what it reports")


async def test_a_capture_returns_only_when_what_it_met_is_decided():
    async with world() as w:
        await check_a_capture_returns_only_when_what_it_met_is_decided(w)


async def test_a_capture_returns_only_when_what_it_met_is_decided_can_fail(monkeypatch):
    monkeypatch.setattr(prepare, "undecided", lambda c: ())
    async with world() as w:
        with pytest.raises(Violated):
            await check_a_capture_returns_only_when_what_it_met_is_decided(w)


# ---------------------------------------------------------------------------- 5. reads


async def check_an_undecided_value_is_not_read_from_one_server(w: World):
    """What one server accepted may yet lose; a read that tells it has told what never was."""
    writer, other, reader = w.client(), w.client(), w.client()
    segment = await writer.space("s").alloc(size=1)
    token = (await segment.capture()).token
    for wire in writer.wires[1:]:
        wire.drop = lambda m: isinstance(m, Write)
    await outcome(segment.write(0, b"half", token, timeout=0.1))  # on s0 alone
    same = await reader.space("s").segment(0)
    values = [await same.read(0) for _ in range(3)]  # whichever server is asked first
    other.wires[0].cut()
    third = await other.space("s").segment(0)
    captured = await third.capture()
    await outcome(third.write(0, b"other", captured.token))
    values.append(await third.read(0))
    must(len(set(values)) == 1, f"one register was read as {values}")


async def test_an_undecided_value_is_not_read_from_one_server():
    async with world() as w:
        await check_an_undecided_value_is_not_read_from_one_server(w)


async def test_an_undecided_value_is_not_read_from_one_server_can_fail(monkeypatch):
    monkeypatch.setattr(reading, "is_known", lambda f, servers: True)
    async with world() as w:
        with pytest.raises(Violated):
            await check_an_undecided_value_is_not_read_from_one_server(w)


async def check_a_mark_speaks_of_its_ballot_only(w: World):
    """A server that accepted an older value must not take it for the decided one."""
    a, b = w.client(), w.client()
    segment = await a.space("s").alloc(size=1)
    token = (await segment.capture()).token
    for wire in a.wires[1:]:
        wire.drop = lambda m: isinstance(m, Write)
    await outcome(segment.write(0, b"old", token, timeout=0.1))  # on s0 alone
    b.wires[0].cut()
    same = await b.space("s").segment(0)
    captured = await same.capture()
    await same.write(0, b"new", captured.token)
    b.wires[0].mend()
    b.registers._partitions[0].mark("s", 0, captured.token.fence, [(0, 1)])
    b.registers._partitions[0].send_marks()  # s0 hears of the decision, and holds old
    (report,) = await ask(w.nodes[0], Read("s", 0, [(0, 1)]))
    must(not any(r.decided and r.value == b"old" for r in report.rows), "old taken for decided")
    for _ in range(3):
        held = await same.read(0)
        must(held == b"new", f"read {held}")


async def test_a_mark_speaks_of_its_ballot_only():
    async with world() as w:
        await check_a_mark_speaks_of_its_ballot_only(w)


async def test_a_mark_speaks_of_its_ballot_only_can_fail(monkeypatch):
    def careless(marks, offset, b):
        return any(acceptor.covers(mark, offset) for mark in marks)

    monkeypatch.setattr(acceptors, "is_decided", careless)
    async with world() as w:
        with pytest.raises(Violated):
            await check_a_mark_speaks_of_its_ballot_only(w)


async def check_empty_takes_a_majority(w: World):
    """One server's nothing says nothing: it may have been away when the others decided."""
    writer, reader = w.client(), w.client()
    segment = await writer.space("s").alloc(size=1)
    writer.wires[0].cut()
    await segment.write(0, b"v", (await segment.capture()).token)
    same = await reader.space("s").segment(0)
    for _ in range(3):
        held = await same.read(0)
        must(held == b"v", f"a written register was read as {held}")


async def test_empty_takes_a_majority():
    async with world() as w:
        await check_empty_takes_a_majority(w)


async def test_empty_takes_a_majority_can_fail(monkeypatch):
    monkeypatch.setattr(reading, "is_quorum", lambda mask, servers: mask != 0)
    async with world() as w:
        with pytest.raises(Violated):
            await check_empty_takes_a_majority(w)


async def check_helping_steals_nothing(w: World):
    """A reader that completes a write does so with the writer's ballot: its capture stands."""
    writer, reader = w.client(), w.client()
    segment = await writer.space("s").alloc(size=2)
    token = (await segment.capture()).token
    for wire in writer.wires[1:]:
        wire.drop = lambda m: isinstance(m, Write) and m.offsets == [0]
    await outcome(segment.write(0, b"half", token, timeout=0.1))
    held = await (await reader.space("s").segment(0)).read_range()
    must(held == [b"half", None], f"read {held}")
    must(await outcome(segment.write(1, b"next", token)) is None, "the capture was stolen")
    sent = [m for wire in reader.wires for m in wire.sent]
    must(not any(isinstance(m, Capture) for m in sent), "the reader captured")


async def test_helping_steals_nothing():
    async with world() as w:
        await check_helping_steals_nothing(w)


async def test_helping_steals_nothing_can_fail(monkeypatch):
    async def grabbing(self, segment_name, b, rows, deadline):
        captured = await self.capture(segment_name, 0, 2, deadline)
        return dict(captured.written)

    monkeypatch.setattr(client.PaxosRegisters, "_help", grabbing)
    async with world() as w:
        with pytest.raises(Violated):
            await check_helping_steals_nothing(w)


# ---------------------------------------------------------------------------- 6. unsafe writes


async def check_an_unsafe_write_is_refused_where_anything_was_promised(w: World):
    one, two = w.client(), w.client()
    segment = await one.space("s").alloc(size=1)
    captured = await segment.capture()
    same = await two.space("s").segment(0)
    unsafe = await outcome(same.unsafe_write(0, b"unsafe"))
    must(isinstance(unsafe, CaptureLost), f"an unsafe write to a captured register: {unsafe}")
    must(await outcome(segment.write(0, b"v", captured.token)) is None, "the holder lost")
    must(await same.read(0) == b"v", "not the holder's value")


async def test_an_unsafe_write_is_refused_where_anything_was_promised():
    async with world() as w:
        await check_an_unsafe_write_is_refused_where_anything_was_promised(w)


async def test_an_unsafe_write_is_refused_where_anything_was_promised_can_fail(monkeypatch):
    def generous(promises, row, offset, b, value):
        return promises, acceptor.Row(offset, b, value), acceptor.ACCEPTED

    monkeypatch.setattr(acceptors, "on_write", generous)
    async with world() as w:
        with pytest.raises(Violated):
            await check_an_unsafe_write_is_refused_where_anything_was_promised(w)


# ---------------------------------------------------------------------------- 7. trim


async def check_nothing_is_deleted_before_the_trim_is_decided(w: World):
    """Else a trim that fails half-way would leave a segment that some can read and some cannot."""
    one = w.client()
    segment = await one.space("s").alloc(size=1)
    await segment.write(0, b"v", (await segment.capture()).token)
    for wire in one.wires[1:]:
        wire.drop = lambda m: isinstance(m, Write) and m.offsets == [TRIM]
    result = await outcome(segment.trim(timeout=0.3))
    must(isinstance(result, Unavailable), f"a trim without a majority: {result}")
    told = [m for wire in one.wires for m in wire.sent if isinstance(m, Trim)]
    must(not told, "servers were told to delete before the trim was decided")
    must(await segment.read(0) == b"v", "lost")


async def test_nothing_is_deleted_before_the_trim_is_decided():
    async with world() as w:
        await check_nothing_is_deleted_before_the_trim_is_decided(w)


async def test_nothing_is_deleted_before_the_trim_is_decided_can_fail(monkeypatch):
    trim = client.PaxosRegisters.trim

    async def hasty(self, segment_name, stop, deadline):
        await self._discard(segment_name[0], segment_name[1], stop, deadline)
        await trim(self, segment_name, stop, deadline)

    monkeypatch.setattr(client.PaxosRegisters, "trim", hasty)
    async with world() as w:
        with pytest.raises(Violated):
            await check_nothing_is_deleted_before_the_trim_is_decided(w)


async def check_a_half_done_trim_is_completed(w: World):
    """The trimmer died between the decision and the deletion: whoever comes next finishes it."""
    one, two = w.client(), w.client()
    segment = await one.space("s").alloc(size=1)
    await segment.write(0, b"v", (await segment.capture()).token)
    for wire in one.wires:
        wire.drop = lambda m: isinstance(m, Trim)
    trimming = asyncio.ensure_future(outcome(segment.trim()))
    async with asyncio.timeout(5):
        while not any(map(engine_holds_trim, w.engines[:2])):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
    trimming.cancel()
    found = await outcome(two.space("s").segment(0))
    must(isinstance(found, wormspace.Trimmed), f"a trimmed segment was found: {found}")
    told = [m for wire in two.wires for m in wire.sent if isinstance(m, Trim)]
    must(told, "nobody told the servers")
    left = [row for e in w.engines for row in e.view.scan(tables.ROWS, b"", b"\xff" * 300)]
    for _ in range(100):
        await asyncio.sleep(0)
        left = [row for e in w.engines for row in e.view.scan(tables.ROWS, b"", b"\xff" * 300)]
    must(not left, "the servers still hold it")


def engine_holds_trim(engine):
    return any(
        key.endswith(b"\xff\xff\xff\xff")
        for key, _ in engine.view.scan(tables.ROWS, b"", b"\xff" * 300)
    )


async def test_a_half_done_trim_is_completed():
    async with world() as w:
        await check_a_half_done_trim_is_completed(w)


# ---------------------------------------------------------------------------- 8. who is who


async def check_a_server_that_lost_its_disk_does_not_come_back(w: World, path):
    """It would have forgotten; a majority with it is none."""
    one, two = w.client(), w.client()
    segment = await one.space("s").alloc(size=1)
    one.wires[2].cut()
    await segment.write(0, b"decided", (await segment.capture()).token)  # on s0 and s1
    fresh = AcceptorStore(path)
    try:
        identity.require(
            fresh, Identity(cluster="c", server="s1", members=("s0", "s1", "s2")), path
        )
    except WormError:
        fresh.close()
        return  # it stays down; the register waits for s1's disk or for s0
    w.replace(1, fresh)
    two.wires[0].cut()
    same = await outcome(two.space("s").segment(0))
    must(not isinstance(same, WormError), f"the segment is gone: {same}")
    must(await same.read(0) == b"decided", "a decided value is gone")


async def test_a_server_that_lost_its_disk_does_not_come_back(tmp_path):
    async with world() as w:
        await check_a_server_that_lost_its_disk_does_not_come_back(w, tmp_path)


async def test_a_server_that_lost_its_disk_does_not_come_back_can_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "require", lambda *a: None)
    async with world() as w:
        with pytest.raises(Violated):
            await check_a_server_that_lost_its_disk_does_not_come_back(w, tmp_path)


async def check_a_server_does_not_come_back_on_other_terms(path):
    """Somebody edits the cluster file from sync to memory; what was promised is forgotten."""

    def cluster(durability):
        return ClusterConfig("c", [ServerConfig("s1", "127.0.0.1", 7001, "s1")], durability)

    async def started(config):
        engine = await runner.open_engine(config, config.server[0], path)
        link = LocalLink(Node(engine), "s1")
        rng = random.Random(1)
        return Client(PaxosRegisters([Partition(0, [link])], rng), rng, 5.0)

    before, after = cluster("sync"), cluster("memory")
    await runner.prepare_directory(before, before.server[0], path)
    one = await started(before)
    await (await one.space("s").alloc(size=1)).unsafe_write(0, b"red")
    await one.close()
    two = await outcome(started(after))
    if isinstance(two, WormError):
        return  # it does not start
    found = await outcome(two.space("s").segment(0))
    await two.close()
    must(not isinstance(found, WormError), f"what was decided is forgotten: {found}")


async def test_a_server_does_not_come_back_on_other_terms(tmp_path):
    await check_a_server_does_not_come_back_on_other_terms(tmp_path)


async def test_a_server_does_not_come_back_on_other_terms_can_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "_compare", lambda *a: None)
    with pytest.raises(Violated):
        await check_a_server_does_not_come_back_on_other_terms(tmp_path)


async def check_a_server_is_counted_once():
    async with (
        serving(identity=ServerIdentity(IDENTITY.cluster, "s1", 0, 1, 3)) as server,
    ):
        address = f"127.0.0.1:{server.port}"
        try:
            client = await wormspace.connect(f"worm://{address},{address},{address}", timeout=2)
        except Refused:
            return
        await client.close()
        raise Violated("one server of three was taken for a majority")


async def test_a_server_is_counted_once():
    await check_a_server_is_counted_once()


async def test_a_server_is_counted_once_can_fail(monkeypatch):
    monkeypatch.setattr(Membership, "admit", lambda *a: None)
    with pytest.raises(Violated):
        await check_a_server_is_counted_once()


def check_two_majorities_share_a_server():
    for servers in (1, 3, 5, 7):
        masks = range(1 << servers)
        quorums = [m for m in masks if quorum_module.is_quorum(m, servers)]
        must(all(a & b for a in quorums for b in quorums), f"{servers} servers")


def test_two_majorities_share_a_server():
    check_two_majorities_share_a_server()


def test_two_majorities_share_a_server_can_fail(monkeypatch):
    monkeypatch.setattr(quorum_module, "majority", lambda servers: servers // 2)
    with pytest.raises(Violated):
        check_two_majorities_share_a_server()
