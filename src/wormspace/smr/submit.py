"""The caller's side: commands become packets, queries become questions, outcomes become results.

What is called in one turn of the event loop travels together; a full packet leaves before the turn
is over.  While too much is under way, more comes together, so that the load sets the size of
packets by itself.
"""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import inspect
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from wormspace.errors import Closed, ProtocolViolation, ValueTooLarge
from wormspace.knobs import KNOBS
from wormspace.malformed import MALFORMED
from wormspace.runtime.batching import EndOfTurn, require_loop
from wormspace.runtime.tasks import Tasks
from wormspace.smr.calls import encode_calls
from wormspace.smr.consistency import Session
from wormspace.smr.declare import Declaration
from wormspace.smr.errors import CommandFailed, SessionExpired
from wormspace.smr.methods import Method
from wormspace.smr.records import (
    Fault,
    Packet,
    Reply,
    decode_outcome,
    decode_plain_outcome,
)

MAX_COMMAND_BYTES = 1_000_000
"""So large may a command be where servers have the limits that ship; replicas say what holds."""


class PacketTooLarge(ValueTooLarge):
    """A packet does not fit into a register, and was not applied; `largest` is what does."""

    def __init__(self, largest: int) -> None:
        super().__init__(too_large(largest))
        self.largest = largest


def too_large(largest: int) -> str:
    """What the caller of a call that does not fit is told."""
    return (
        f"the call is larger than the {largest} bytes that go into a register: split it, or raise "
        "max_value on all servers"
    )


class Calls:
    """Calls that wait to be sent, or for their results: a column for each of their parts.

    `since`: the loop's time at which each was made.
    """

    __slots__ = ("arguments", "futures", "methods", "sessions", "since")

    def __init__(
        self,
        methods: list[Method],
        arguments: list[tuple[Any, ...]],
        sessions: list[Session],
        futures: list[asyncio.Future[Any]],
        since: list[float],
    ) -> None:
        self.methods = methods
        self.since = since
        self.arguments = arguments
        self.sessions = sessions
        self.futures = futures

    def __getitem__(self, part: slice) -> Calls:
        return Calls(
            self.methods[part],
            self.arguments[part],
            self.sessions[part],
            self.futures[part],
            self.since[part],
        )

    def __len__(self) -> int:
        return len(self.futures)

    def fail(self, error: Exception) -> None:
        """None of them has a result."""
        for future in self.futures:
            if not future.done():
                future.set_exception(error)


class Gatherer:
    """Gathers the calls of one turn, and hands on what came of them.

    Args:
        timeout_s: how long a call may take in all, from when it was made.

    Attributes:
        largest: the size of the largest packet; `is_sure`: this is known to be so.
    """

    def __init__(self, declaration: Declaration, timeout_s: float) -> None:
        self.declaration = declaration
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        # A packet is for all whose calls are in it: it travels in nobody's own context.
        context = contextvars.copy_context()
        self._end_of_turn = EndOfTurn(self._on_turn, context)
        self.largest = MAX_COMMAND_BYTES
        self.is_sure = False
        self._calls = Calls([], [], [], [], [])
        self._now: float | None = None
        self._most = 0
        self._tasks = Tasks("a packet", context)

    def add(
        self, method: Method, arguments: tuple[Any, ...], session: Session
    ) -> asyncio.Future[Any]:
        """One more call; the future has its result.

        Raises:
            UsageError: the caller is not on the replica's event loop.
        """
        if self._now is None:  # the first call of a turn
            require_loop(self._loop)
        future: asyncio.Future[Any] = self._loop.create_future()
        calls = self._calls
        calls.methods.append(method)
        calls.arguments.append(arguments)
        calls.sessions.append(session)
        calls.futures.append(future)
        if self._now is None:
            self._now = self._loop.time()
            self._most = KNOBS.smr_packet_calls
            self._end_of_turn.request()
        calls.since.append(self._now)
        if len(calls.futures) >= self._most:
            self._send_all()
        return future

    async def close(self) -> None:
        """Give up what is under way."""
        self._tasks.cancel()
        calls, self._calls = self._calls, Calls([], [], [], [], [])
        calls.fail(Closed("closed before the call was sent: nothing was done"))

    def _on_turn(self) -> None:
        self._now = None
        self._send_all()

    def _send_all(self) -> None:
        most = KNOBS.smr_packet_calls
        while self._calls and len(self._tasks) < KNOBS.smr_packets_under_way:
            calls, self._calls = self._calls[:most], self._calls[most:]
            self._send(calls)

    def _send(self, calls: Calls) -> None:
        """Encode, in parts if it is too much, and start."""
        try:
            raw = encode_calls(calls.methods, calls.arguments)
        except (TypeError, ValueError, OverflowError, *MALFORMED) as e:
            self._split(calls, e)
            return
        most = min(KNOBS.smr_packet_bytes, self.largest) if len(calls) > 1 else self.largest
        if len(raw) > most:
            self._split(calls, ValueTooLarge(too_large(self.largest)))
            return
        if self.is_sure:
            calls.arguments.clear()  # they are in the packet
        self._tasks.spawn(self._travel(calls, raw), self._on_done)

    def _split(self, calls: Calls, error: Exception) -> None:
        if len(calls) == 1:
            calls.fail(error)
            return
        middle = len(calls) // 2
        self._send(calls[:middle])
        self._send(calls[middle:])

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if self._calls:
            self._end_of_turn.request()

    async def _travel(self, calls: Calls, raw: bytes) -> None:
        """Bring the calls to where they are answered, and the answers back."""
        try:
            reply = await self._dispatch(calls, raw, calls.since[0] + self._timeout_s)
        except PacketTooLarge as e:
            self.largest, self.is_sure = e.largest, True
            error = ValueTooLarge(str(e))
            if calls.arguments:
                self._split(calls, error)
            else:
                calls.fail(error)
        except Exception as e:  # noqa: BLE001 - whatever it is, nobody waits for ever
            calls.fail(e)
        except asyncio.CancelledError:
            calls.fail(
                Closed("closed while the call was under way: whether it was done is unknown")
            )
            raise
        else:
            for session in dict.fromkeys(calls.sessions):
                session.saw(reply.position)
            try:
                self._settle(calls, reply.body or b"")
            except (ValueError, IndexError, *MALFORMED) as e:
                calls.fail(ProtocolViolation(f"the answer to a packet is none: {e}"))

    async def _dispatch(self, calls: Calls, raw: bytes, deadline: float) -> Reply:
        raise NotImplementedError

    def _settle(self, calls: Calls, body: bytes) -> None:
        """Give each call its result."""
        is_plain = all(method.is_plain for method in dict.fromkeys(calls.methods))
        outcome = decode_plain_outcome(body) if is_plain else decode_outcome(body)
        if outcome.refused:
            error = f"nobody knows whether it was applied: {outcome.refused}"
            calls.fail(SessionExpired(error))
            return
        if len(outcome.values) != len(calls):
            raise ValueError(f"{len(outcome.values)} results of {len(calls)} calls")
        for index, fault in outcome.faults.items():
            future = calls.futures[index]
            if not future.done():
                future.set_exception(as_exception(fault, self.declaration))
        values: Sequence[Any] = outcome.values
        if not is_plain:
            for method, future, value in zip(calls.methods, calls.futures, values, strict=True):
                if not future.done():
                    _give(future, method, value)
            return
        for future, value in zip(calls.futures, values, strict=True):
            if not future.done():
                future.set_result(value)


def _give(future: asyncio.Future[Any], method: Method, value: Any) -> None:
    """The result of a call, as what it was declared to be."""
    try:
        future.set_result(method.decode(value))
    except MALFORMED as e:
        future.set_exception(
            TypeError(f"{method.name}() was made, but its result is not what it declares: {e}")
        )


class Submitter(Gatherer):
    """Commands of one client: numbered packets, carried until their outcome is there."""

    def __init__(
        self,
        declaration: Declaration,
        timeout_s: float,
        rng: random.Random,
        carry: Callable[[Packet, float], Awaitable[Reply]],
    ) -> None:
        super().__init__(declaration, timeout_s)
        self._rng = rng
        self._deliver = carry
        self._begin()

    def _begin(self) -> None:
        """Become a new client."""
        self._client = self._rng.getrandbits(64).to_bytes(8, "big")
        self._last = 0
        self._open: dict[int, None] = {}
        self._settled_at: float | None = None

    async def _dispatch(self, calls: Calls, raw: bytes, deadline: float) -> Reply:
        idle_since = self._settled_at
        if (
            not self._open
            and idle_since is not None
            and self._loop.time() - idle_since > KNOBS.smr_session_s / 4
        ):
            self._begin()  # before the replicas forget this one
        self._last += 1
        number, still_open = self._last, self._open
        still_open[number] = None
        settled = self._settled_at is not None
        packet = Packet(self._client, number, next(iter(still_open)), raw, settled)
        try:
            reply = await self._deliver(packet, deadline)
            self._settled_at = self._loop.time()
            return reply
        finally:
            del still_open[number]


class Asker(Gatherer):
    """Queries to be answered by the leader."""

    def __init__(
        self,
        declaration: Declaration,
        timeout_s: float,
        carry: Callable[[bytes, Session, float], Awaitable[Reply]],
    ) -> None:
        super().__init__(declaration, timeout_s)
        self._deliver = carry

    async def _dispatch(self, calls: Calls, raw: bytes, deadline: float) -> Reply:
        latest = max(dict.fromkeys(calls.sessions), key=lambda session: session.seen)
        return await self._deliver(raw, latest, deadline)


def as_exception(fault: Fault, declaration: Declaration) -> Exception:
    """The exception that a command raised, as what it was, if its class can be seen from here.

    That is: it is built in, or a name in the module of one of the state machine's methods.  No
    future can have a `StopIteration`.
    """
    functions = (inspect.unwrap(method.function) for method in declaration.methods.values())
    seen_from = [function.__globals__ for function in functions]
    for names in [*seen_from, vars(builtins)]:
        kind = names.get(fault.kind)
        if isinstance(kind, type) and issubclass(kind, Exception):
            if issubclass(kind, StopIteration):
                break
            try:
                return _made(kind, fault)
            except Exception:  # noqa: BLE001 - its constructor wants something else
                break
    return CommandFailed(fault.kind, fault.text)


def _made(kind: type[Exception], fault: Fault) -> Exception:
    arguments = [fault.text] if fault.arguments is None else fault.arguments
    error = kind(*arguments)
    if str(error) != fault.text:  # its constructor makes a sentence of what it is given
        bare = kind.__new__(kind)
        bare.args = tuple(arguments)
        if str(bare) == fault.text:
            return bare
    return error
