"""The heart of a wormserver: requests in, one store transaction per batch, then the answers.

Requests that change state wait in a queue.  What has come in while the last commit was under way
is the next batch, up to a bound on its work: handled in order, committed as one transaction with
one sync, and answered only when that is done.  Reads are answered at once from the last commit that
is done.

A batch has two phases.  To *handle* it only collects changes, in memory: whatever goes wrong there
costs the request that it goes wrong with, for the others are handled anew without it.  To *commit*
it is for the store alone: it succeeds, or the store is full and unchanged, or nobody knows; then
the node has failed, and answers nothing but that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from wormspace.errors import StoreDamaged, StoreError, StoreFull
from wormspace.knobs import KNOBS
from wormspace.paxos.ballot import round_of
from wormspace.paxos.messages import (
    Capture,
    Decided,
    Done,
    Promise,
    Read,
    Reject,
    Report,
    Trim,
    Write,
)
from wormspace.runtime.tasks import Tasks
from wormspace.server import acceptors, tables
from wormspace.server.counters import Counters
from wormspace.server.dividing import AtOnce, TooMuch, in_batches, in_parts
from wormspace.server.door import Door, makes_room
from wormspace.server.listeners import Listeners, News, ReplyTo
from wormspace.server.marks import Marks
from wormspace.store.engine import Batch, Engine
from wormspace.wire.messages import (
    DAMAGED,
    FULL,
    INTERNAL,
    STOPPING,
    TOO_MANY,
    ClientMessage,
    Failed,
    Listen,
    Metrics,
    ServerMessage,
    SpaceNames,
    Spaces,
    Status,
    Trims,
    Unlisten,
)

log = logging.getLogger("wormspace.node")

MAX_VALUE_BYTES = 1 << 20
MAX_LISTENERS = 16384
MARKS_SAVE_S = 1.0
SWEEP_RETRY_S = 1.0

Queued: TypeAlias = tuple[ReplyTo, int, Capture | Write | Trim, int]
"""(where the answer goes, request id, request, its size in bytes)"""


class Node:
    """One server's acceptors.

    Args:
        engine: the store; the node closes it.
        max_value: the largest value accepted, in bytes.
        max_listeners: the most subscriptions of one client.
        on_fatal: called once if the store fails for another reason than being full; the node
            then answers nothing but failures, since what it has on disk is no longer certain.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_value: int = MAX_VALUE_BYTES,
        max_listeners: int = MAX_LISTENERS,
        on_fatal: Callable[[StoreError], None] | None = None,
    ) -> None:
        self._engine = engine
        self.max_value = max_value
        self._max_listeners = max_listeners
        self._on_fatal = on_fatal
        self._door = Door(max_value)
        self._door.learn_rounds(engine.view)
        self._marks = Marks()
        self._queue: deque[Queued] = deque()
        self.backlog_bytes = 0
        self._worker: asyncio.Task[None] | None = None
        self._marks_timer: asyncio.TimerHandle | None = None
        self._marks_due = False
        self._sweep_keys = KNOBS.server_sweep_keys
        self._no_room = False
        self._rounds_rose = False
        self._stopping = False
        self._closed = False
        self._failed: StoreError | None = None
        self.counters = Counters()
        self._listeners = Listeners(self.counters)
        self.more_metrics: Callable[[], dict[str, int]] = dict
        self.on_drained: list[Callable[[], None]] = []
        self._garbage = acceptors.has_garbage(engine.view)
        if self._garbage:
            self._wake()

    # ------------------------------------------------------------ requests

    def submit(self, port: ReplyTo, request_id: int, message: ClientMessage, size: int = 0) -> None:
        """Take in a request of `size` bytes; the answer goes to `port`, now or later."""
        problem = self._refusal(message)
        if problem is not None:
            port.answer(request_id, problem)
        elif isinstance(message, (Write, Capture, Trim)):
            self._queue.append((port, request_id, message, size))
            self.backlog_bytes += size
            self._wake()
        else:
            try:
                answer = self._ask(port, request_id, message)
            except Exception as e:  # noqa: BLE001 - one request must not cost the connection
                answer = self._mishap(e)
            if answer is not None:
                port.answer(request_id, answer)

    def _refusal(self, m: ClientMessage) -> Failed | None:
        """Why a request cannot be taken in at all, if so."""
        if self._failed:
            return _has_failed(self._failed)
        if self._closed or (self._stopping and isinstance(m, Write | Capture | Trim)):
            return Failed(STOPPING, "the server is stopping")
        problem = self._door.problem(m)
        if problem is not None:
            self.counters.bad_requests += 1
        return problem

    def _ask(self, port: ReplyTo, request_id: int, m: ClientMessage) -> ServerMessage | None:
        """Carry out what needs no batch; returns the answer, if there is one."""
        if isinstance(m, Read):
            return self._read(m)
        view = self._engine.view
        if isinstance(m, Decided):
            self._learn(m)
        elif isinstance(m, Listen):
            return self._listen(port, request_id, m)
        elif isinstance(m, Unlisten):
            self._listeners.remove(port, m.listener)
        elif isinstance(m, Status):
            return Metrics(self.metrics())
        elif isinstance(m, Spaces):
            return SpaceNames(tables.space_names(view, m.after, KNOBS.server_page_names))
        elif isinstance(m, Trims):
            return acceptors.tombstones(view, m)
        return None

    def _mishap(self, e: Exception) -> Failed:
        """What to say to a request that met an error, none of whose changes are left."""
        if isinstance(e, StoreDamaged):
            self.counters.damaged += 1
            log.error("damage in the store: %s", e)
            return Failed(DAMAGED, f"what is asked for is damaged on this server: {e}")
        if isinstance(e, StoreError):
            self._fail(e)
            return _has_failed(e)
        self.counters.faults += 1
        log.error("a request could not be handled", exc_info=e)
        return Failed(INTERNAL, f"{type(e).__name__}: {e}")

    def _read(self, m: Read) -> ServerMessage:
        report = acceptors.read(self._engine.view, self._marks, m)
        self.counters.reads += 1
        if isinstance(report, Report):
            self.counters.registers_read += len(report.rows)
        return report

    def _listen(self, port: ReplyTo, request_id: int, m: Listen) -> Done | Failed:
        self._listeners.remove(port, request_id)
        if self._listeners.held_by(port) >= self._max_listeners:
            return Failed(TOO_MANY, f"a connection has at most {self._max_listeners} subscriptions")
        self._listeners.add(port, request_id, m)
        return Done()

    def forget(self, port: ReplyTo) -> None:
        """The client behind `port` is gone: drop its subscriptions."""
        self._listeners.forget(port)

    def metrics(self) -> dict[str, int | str]:
        """Counters and sizes, for the status message; and `trouble`, in words, if there is any."""
        counts: dict[str, int] = msgspec.structs.asdict(self.counters)
        trouble = str(self._failed or "") or self._engine.health()
        return {
            **counts,
            "troubled": int(bool(trouble)),
            **({"trouble": trouble} if trouble else {}),
            **self._engine.metrics(),
            **self.more_metrics(),
            "backlog_bytes": self.backlog_bytes,
            "listeners": len(self._listeners),
            "marks_unsaved": len(self._marks),
        }

    async def stop(self) -> None:
        """Refuse new requests, answer those that were taken in, close the store."""
        self._stopping = True
        if self._marks_timer:
            self._marks_timer.cancel()
        while self._worker:
            await asyncio.wait([self._worker])
        self._marks_due = len(self._marks) > 0
        while self._marks_due and not self._failed:  # a mishap with them is not tried again
            await self._commit([])
        self._closed = True
        self._engine.close()

    # ------------------------------------------------------------ decided marks

    def _learn(self, m: Decided) -> None:
        self._marks.learn(self._engine.view, m)
        if len(self._marks) >= KNOBS.server_marks_pending:
            self._save_marks()
        elif self._marks_timer is None and not self._stopping:
            loop = asyncio.get_running_loop()
            self._marks_timer = loop.call_later(MARKS_SAVE_S, self._save_marks)

    def _save_marks(self) -> None:
        if self._marks_timer:
            self._marks_timer.cancel()
        self._marks_timer = None
        self._marks_due = True
        self._wake()

    # ------------------------------------------------------------ batches

    def _wake(self) -> None:
        if self._worker is None:
            self._worker = Tasks("node").begin(self._work())

    async def _work(self) -> None:
        try:
            while True:
                await self._commit(self._next_batch())
                if self._failed or not (self._queue or self._marks_due or self._sweeping()):
                    return
                if self._no_room and not self._queue:
                    # Not even what trims left behind can be deleted now.  Some day it can.
                    asyncio.get_running_loop().call_later(SWEEP_RETRY_S, self._sweep_again)
                    return
                await asyncio.sleep(0)  # a store in memory commits without a turn of the loop
        finally:
            self._worker = None
            if self._queue and not self._failed:
                self._wake()

    def _next_batch(self) -> list[Queued]:
        """Take requests from the queue, up to the work of a batch."""
        queue, batch, work = self._queue, list[Queued](), KNOBS.server_batch_work
        while queue and work > 0:
            batch.append(queue.popleft())
            m = batch[-1][2]
            work -= len(m.offsets) if isinstance(m, Write) else 1
        return batch

    def _sweep_again(self) -> None:
        if self._sweeping():
            self._wake()

    def _sweeping(self) -> bool:
        if self._garbage and not self._stopping:
            self._garbage = self._look_up(lambda: acceptors.has_garbage(self._engine.view))
        return self._garbage and not self._stopping

    async def _commit(self, queued: list[Queued], *, slowly: bool = False) -> None:
        """One batch: handle, commit, and only then answer.

        Args:
            slowly: it is one request that is to be handled in parts.
        """
        if self._failed:
            self._answer(queued, [_has_failed(self._failed)] * len(queued))
            return
        mishap: Exception | None = None
        swept = 0
        try:
            batch = self._engine.begin()
            try:
                if slowly:
                    answers, news, batch = await self._handle_in_parts(batch, *queued)
                else:
                    answers, news = self._handle(batch, queued)
                    swept = self._chores(batch)
            except Exception as e:
                batch.abort()
                if _is_fatal(e):
                    raise
                mishap = e
            else:
                await self._put(batch)
        except StoreFull as e:
            await self._on_full(queued, e)
            return
        except GeneratorExit:  # the event loop has ended, and nobody waits for an answer
            self._failed = StoreError("a batch was dropped half-way")
            raise
        except BaseException as e:
            failure = e if isinstance(e, StoreError) else StoreError(f"{type(e).__name__}: {e}")
            self._fail(failure)
            self._answer(queued, [_has_failed(failure)] * len(queued))
            if not isinstance(e, Exception):
                raise
            return
        if mishap is not None:
            await self._apart(queued, mishap)
            return
        requests = [item[2] for item in queued]
        self.counters.count(zip(requests, answers, strict=True), news, swept)
        self._no_room = False
        self._sweep_keys = min(KNOBS.server_sweep_keys, 2 * self._sweep_keys)
        self._answer(queued, answers)
        if self._rounds_rose:
            self._rounds_rose = False
            self._look_up(lambda: self._door.learn_rounds(self._engine.view))
        await self._listeners.tell(news)

    def _look_up(self, look: Callable[[], bool | None]) -> bool:
        """What the node looks up for itself; false if that goes wrong, which costs no request."""
        try:
            return bool(look())
        except Exception as e:  # noqa: BLE001 - it is told, and counted
            self._mishap(e)
            return False

    async def _apart(self, queued: list[Queued], e: Exception) -> None:
        """A batch could not be handled, and nothing of it is left: find out because of whom.

        By halves: each costs the others the logarithm of a batch, and is answered for itself.
        """
        if len(queued) > 1:
            half = len(queued) // 2
            await self._commit(queued[:half])
            await self._commit(queued[half:])
        elif isinstance(e, TooMuch) and queued:
            await self._commit(queued, slowly=True)
        else:
            self._answer(queued, [self._mishap(e)] * len(queued))

    async def _on_full(self, queued: list[Queued], e: StoreFull) -> None:
        """There was no room for a batch: refuse what needs room, try again what makes some."""
        self.counters.store_full += 1
        if not self._no_room:
            log.warning("store full: %s", e)
        self._no_room = True
        trims = [item for item in queued if makes_room(item[2])]
        others = [item for item in queued if not makes_room(item[2])]
        self._answer(others, [Failed(FULL, str(e))] * len(others))
        if trims and (others or self._sweep_keys > 1):
            self._sweep_keys = max(1, self._sweep_keys // 4)
            await self._commit(trims)
        else:
            self._sweep_keys = max(1, self._sweep_keys // 4)
            self._answer(trims, [Failed(FULL, str(e))] * len(trims))

    def _handle(self, batch: Batch, queued: list[Queued]) -> tuple[list[ServerMessage], list[News]]:
        """The answers, and what listeners are to be told.  Changes nothing but the batch."""
        answers: list[ServerMessage] = []
        news: list[News] = []
        at_once = AtOnce()
        room = KNOBS.server_batch_rows_bytes
        for port, _, m, _ in queued:
            if isinstance(m, Write):
                answer, fresh = acceptors.write(batch, m)
                if fresh is not None:
                    news.append(fresh)
                answers.append(answer)
            elif isinstance(m, Capture):
                reply = acceptors.capture(
                    batch, self._marks, m, 0 if room <= 0 or port.congested() else None, at_once
                )
                if isinstance(reply, Promise):
                    room -= sum([len(row.value) + acceptors.ROW_BYTES for row in reply.rows])
                answers.append(reply)
            else:
                done, fresh_trim = acceptors.trim(batch, m, at_once)
                if fresh_trim:
                    self._garbage = True
                    news.append(m)
                answers.append(done)
            if not isinstance(m, Trim) and self._door.is_news(m.ballot):
                tables.reach_round(batch, round_of(m.ballot))
                self._rounds_rose = True
            if at_once.is_enough:
                break
        self._queue.extendleft(reversed(queued[len(answers) :]))  # they are for the next batch
        del queued[len(answers) :]
        return answers, news

    async def _handle_in_parts(
        self, batch: Batch, item: Queued
    ) -> tuple[list[ServerMessage], list[News], Batch]:
        """As `_handle`, of one request that is too much for a turn; returns the last batch too."""
        port, _, m, _ = item
        if isinstance(m, Trim):
            (done, _), batch = await in_batches(
                acceptors.trimming(batch, m, in_parts), batch, self._renew
            )
            return [done], [], batch
        if not isinstance(m, Capture):
            raise TypeError(f"a {type(m).__name__} has no parts")
        higher, batch = await in_batches(acceptors.refusing(batch, m), batch, self._renew)
        if higher is not None:
            return [Reject(higher)], [], batch
        if self._door.is_news(m.ballot):
            tables.reach_round(batch, round_of(m.ballot))
            self._rounds_rose = True
        room = 0 if port.congested() else None
        work = acceptors.capturing(batch, self._marks, m, in_parts, room)
        reply, batch = await in_batches(work, batch, self._renew)
        return [reply], [], batch

    async def _renew(self, batch: Batch, news: Trim | None) -> Batch:
        """Commit the batch of a part, and begin one for the next.

        What a part trimmed is told and swept, whatever becomes of those after it.
        """
        await self._put(batch)
        if news is not None:
            self._garbage = True
            await self._listeners.tell([news])
        await asyncio.sleep(0)
        return self._engine.begin()

    async def _put(self, batch: Batch) -> None:
        """Commit a batch.  Whatever goes wrong there, but a lack of room, ends the node."""
        if self._failed:  # as it was read meanwhile
            raise self._failed
        try:
            await self._engine.commit(batch)
        except Exception as e:
            if _is_fatal(e):
                raise
            raise StoreError(f"{type(e).__name__}: {e}") from e

    def _chores(self, batch: Batch) -> int:
        """Save marks and sweep; returns how many keys were swept.

        None of it is owed to anybody, and a part of it is as good as all: what goes wrong is told,
        and left alone until the next start.
        """
        try:
            if self._marks_due:
                self._marks.save(batch, KNOBS.server_marks_saved)
                self._marks_due = len(self._marks) > 0
            if self._garbage:
                return acceptors.sweep(batch, self._sweep_keys)
        except Exception as e:
            if _is_fatal(e):
                raise
            self._marks_due = self._garbage = False
            self._mishap(e)
        return 0

    def _answer(self, queued: list[Queued], answers: list[ServerMessage]) -> None:
        for (port, request_id, _, size), answer in zip(queued, answers, strict=True):
            self.backlog_bytes -= size
            port.answer(request_id, answer)
        waiting, self.on_drained = self.on_drained, []
        for resume in waiting:
            resume()

    def _fail(self, e: StoreError) -> None:
        if self._failed:
            return
        log.critical("the store has failed, this server can promise nothing more: %s", e)
        self._failed = e
        left = list(self._queue)
        self._queue.clear()
        self._answer(left, [_has_failed(e)] * len(left))
        if self._on_fatal:
            self._on_fatal(e)


def _is_fatal(e: Exception) -> bool:
    """Whether the store as a whole cannot be trusted any more."""
    return isinstance(e, StoreError) and not isinstance(e, StoreDamaged)


def _has_failed(e: StoreError) -> Failed:
    return Failed(INTERNAL, f"the store has failed: {e}")
