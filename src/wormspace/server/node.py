"""The heart of a wormserver: requests in, one store transaction per batch, then the answers.

Requests that change state wait in a queue.  Whatever has come in while the last commit was under
way is the next batch: handled in order, committed as one transaction with one sync, and answered
only when that is done.  Reads are answered at once from the last commit that is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from wormspace.errors import StoreError, StoreFull
from wormspace.paxos.messages import Capture, Decided, Done, Read, Reply, Report, Trim, Write
from wormspace.server import acceptors, tables
from wormspace.server.counters import Counters
from wormspace.server.listeners import Listeners, Port
from wormspace.store.engine import Batch, Engine
from wormspace.wire.messages import (
    BAD_REQUEST,
    FULL,
    INTERNAL,
    STOPPING,
    TOO_LARGE,
    TOO_MANY,
    Accepted,
    Discarded,
    Downward,
    Failed,
    Figures,
    Head,
    Listen,
    SpaceNames,
    Spaces,
    Status,
    TrimmedBelow,
    Unlisten,
    Upward,
)

log = logging.getLogger("wormspace.node")

MAX_VALUE_BYTES = 1 << 20
MAX_LISTENERS = 16384
MARKS_SAVE_S = 1.0
MARKS_MAX = 10_000
SWEEP_KEYS = 2_000
SWEEP_RETRY_S = 1.0
NAMES_PAGE = 1_000


Queued: TypeAlias = tuple[Port, int, Capture | Write | Trim, int]
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
        self._marks = acceptors.Marks()
        self._queue: list[Queued] = []
        self.backlog_bytes = 0
        self._worker: asyncio.Task[None] | None = None
        self._marks_timer: asyncio.TimerHandle | None = None
        self._marks_due = False
        self._sweep_keys = SWEEP_KEYS
        self._no_room = False
        self._stopping = False
        self._failed: StoreError | None = None
        self.counters = Counters()
        self._listeners = Listeners(self.counters)
        self.more_figures: Callable[[], dict[str, int]] = dict
        self.on_drained: list[Callable[[], None]] = []
        self._garbage = acceptors.has_garbage(engine.view)
        if self._garbage:
            self._wake()

    # ------------------------------------------------------------ requests

    def submit(self, port: Port, request_id: int, message: Upward, size: int = 0) -> None:
        """Take in a request of `size` bytes; the answer goes to `port`, now or later."""
        if isinstance(message, Write | Capture | Trim):
            problem = self._problem(message)
            if problem is not None:
                port.answer(request_id, problem)
                return
            self._queue.append((port, request_id, message, size))
            self.backlog_bytes += size
            self._wake()
        elif isinstance(message, Read):
            port.answer(request_id, self._read(message))
        elif isinstance(message, Decided):
            self._learn(message)
        else:
            self._other(port, request_id, message)

    def _other(self, port: Port, request_id: int, message: Upward) -> None:
        if isinstance(message, Listen):
            port.answer(request_id, self._listen(port, request_id, message))
        elif isinstance(message, Unlisten):
            self._listeners.remove(port, message.listener)
        elif isinstance(message, Status):
            port.answer(request_id, Figures(self.figures()))
        elif isinstance(message, Spaces):
            names = tables.space_names(self._engine.view, message.after, NAMES_PAGE)
            port.answer(request_id, SpaceNames(names))
        elif isinstance(message, Head):
            below = tables.trimmed_below(self._engine.view, message.space)
            port.answer(request_id, TrimmedBelow(below))

    def _listen(self, port: Port, request_id: int, m: Listen) -> Done | Failed:
        self._listeners.remove(port, request_id)
        if self._listeners.held_by(port) >= self._max_listeners:
            return Failed(TOO_MANY, f"a connection has at most {self._max_listeners} subscriptions")
        self._listeners.add(port, request_id, m)
        return Done()

    def forget(self, port: Port) -> None:
        """The client behind `port` is gone: drop its subscriptions."""
        self._listeners.forget(port)

    def figures(self) -> dict[str, int]:
        """Counters and sizes, for the status message."""
        counts: dict[str, int] = msgspec.structs.asdict(self.counters)
        return {
            **counts,
            **self._engine.figures(),
            **self.more_figures(),
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
        if len(self._marks) and not self._failed:
            self._marks_due = True
            await self._commit([])
        self._engine.close()

    # ------------------------------------------------------------ what needs no batch

    def _problem(self, m: Write | Capture | Trim) -> Failed | None:
        """Why a request cannot be taken in at all, if so."""
        if self._failed:
            return Failed(INTERNAL, f"the store has failed: {self._failed}")
        if self._stopping:
            return Failed(STOPPING, "the server is stopping")
        bad = ""
        if len(m.space.encode()) > tables.MAX_NAME_BYTES:
            bad = f"a space name has at most {tables.MAX_NAME_BYTES} bytes"
        elif isinstance(m, Write):
            if not m.offsets or len(m.offsets) != len(m.values):
                bad = "a write needs as many values as offsets, and at least one"
            elif len(set(m.offsets)) != len(m.offsets):
                bad = "a write names each offset once"
            elif max(map(len, m.values)) > self.max_value:
                return Failed(TOO_LARGE, f"a value has at most {self.max_value} bytes here")
        elif isinstance(m, Capture):
            if m.start >= m.stop:
                bad = "a capture needs start < stop"
        elif m.segment >= m.stop:
            bad = "a trim needs segment < stop"
        if bad:
            self.counters.bad_requests += 1
            return Failed(BAD_REQUEST, bad)
        return None

    def _read(self, m: Read) -> Reply | Failed:
        end = 0
        for lo, hi in m.spans:
            if lo < end or lo >= hi:
                break
            end = hi
        else:
            if m.spans:
                return self._report(m)
        self.counters.bad_requests += 1
        return Failed(BAD_REQUEST, "a read needs spans with lo < hi, ascending")

    def _report(self, m: Read) -> Reply:
        report = acceptors.read(self._engine.view, self._marks, m)
        self.counters.reads += 1
        if isinstance(report, Report):
            self.counters.registers_read += len(report.rows)
        return report

    def _learn(self, m: Decided) -> None:
        if any(lo >= hi for lo, hi in m.spans):
            self.counters.bad_requests += 1
            return
        self._marks.learn(self._engine.view, m)
        if len(self._marks) > MARKS_MAX:
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
        if self._worker is None and not self._failed:
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="node")

    async def _work(self) -> None:
        try:
            while True:
                batch, self._queue = self._queue, []
                await self._commit(batch)
                if self._failed or not (self._queue or self._sweeping()):
                    return
                if self._no_room and not self._queue:
                    # Not even what trims left behind can be deleted now.  Some day it can.
                    asyncio.get_running_loop().call_later(SWEEP_RETRY_S, self._sweep_again)
                    return
        finally:
            self._worker = None
            if self._queue and not self._failed:
                self._wake()

    def _sweep_again(self) -> None:
        if self._sweeping():
            self._wake()

    def _sweeping(self) -> bool:
        if self._garbage and not self._stopping:
            self._garbage = acceptors.has_garbage(self._engine.view)
        return self._garbage and not self._stopping

    async def _commit(self, queued: list[Queued]) -> None:
        """One batch: handle, commit, and only then answer."""
        try:
            batch = self._engine.begin()
            try:
                answers, news = self._handle(batch, queued)
            except BaseException:
                batch.abort()
                raise
            await self._engine.commit(batch)
        except StoreFull as e:
            await self._on_full(queued, e)
            return
        except StoreError as e:
            self._fail(e)
            self._settle(queued, [Failed(INTERNAL, f"the store has failed: {e}")] * len(queued))
            return
        except Exception as e:  # a bug must cost its batch, not the server
            log.exception("a batch could not be handled")
            failed = Failed(INTERNAL, f"{type(e).__name__}: {e}")
            self._settle(queued, [failed] * len(queued))
            return
        self.counters.batches += 1
        self.counters.batched_requests += len(queued)
        self._no_room = False
        self._sweep_keys = min(SWEEP_KEYS, 2 * self._sweep_keys)
        self._settle(queued, answers)
        self._publish(news)

    def _publish(self, news: list[Write | Trim]) -> None:
        """Tell the listeners, those too that came while the batch was on its way to the disk.

        A subscription that was answered before must hear of it: what its client has read since is
        the state without this batch.
        """
        for m in news:
            if not self._listeners.want(m.space):
                continue
            if isinstance(m, Trim):
                self._listeners.publish(Discarded(m.space, m.segment, m.stop))
            else:
                event = Accepted(m.space, m.segment, m.ballot, m.offsets, m.values)
                self._listeners.publish(event)

    async def _on_full(self, queued: list[Queued], e: StoreFull) -> None:
        """There was no room for a batch: refuse what needs room, try again what makes some."""
        self.counters.store_full += 1
        if not self._no_room:
            log.warning("store full: %s", e)
        self._no_room = True
        trims = [item for item in queued if isinstance(item[2], Trim)]
        others = [item for item in queued if not isinstance(item[2], Trim)]
        self._settle(others, [Failed(FULL, str(e))] * len(others))
        if trims and (others or self._sweep_keys > 1):
            self._sweep_keys = max(1, self._sweep_keys // 4)
            await self._commit(trims)
        else:
            self._sweep_keys = max(1, self._sweep_keys // 4)
            self._settle(trims, [Failed(FULL, str(e))] * len(trims))

    def _handle(
        self, batch: Batch, queued: list[Queued]
    ) -> tuple[list[Downward], list[Write | Trim]]:
        """The answers, and what listeners are to be told once it is durable."""
        answers: list[Downward] = []
        news: list[Write | Trim] = []
        counters = self.counters
        for _, _, m, _ in queued:
            if isinstance(m, Write):
                answer, fresh = acceptors.write(batch, m)
                counters.writes += 1
                if fresh is not None:
                    counters.registers_written += len(fresh.offsets)
                    news.append(fresh)
                answers.append(answer)
            elif isinstance(m, Capture):
                counters.captures += 1
                answers.append(acceptors.capture(batch, self._marks, m))
            else:
                counters.trims += 1
                done, fresh_trim = acceptors.trim(batch, m)
                if fresh_trim:
                    self._garbage = True
                    news.append(m)
                answers.append(done)
        if self._marks_due:
            self._marks_due = False
            self._marks.save(batch)
        if self._garbage:
            counters.swept += acceptors.sweep(batch, self._sweep_keys)
        return answers, news

    def _settle(self, queued: list[Queued], answers: list[Downward]) -> None:
        for (port, request_id, _, size), answer in zip(queued, answers, strict=True):
            self.backlog_bytes -= size
            port.answer(request_id, answer)
        waiting, self.on_drained = self.on_drained, []
        for resume in waiting:
            resume()

    def _fail(self, e: StoreError) -> None:
        log.critical("the store has failed, this server can promise nothing more: %s", e)
        self._failed = e
        if self._on_fatal:
            self._on_fatal(e)
