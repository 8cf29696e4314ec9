"""The position source: how an appender reaches whoever hands out positions, and replaces it when it
is gone.

Sequencers announce themselves in a cell, `<log>/sequencer`: where they are, or that they left.  An
announcement replaces exactly one other, so of all who find that a sequencer is gone only one
succeeds it.  The cell is a way to find each other, no more: what makes positions unique and ordered
is the term.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Protocol

import msgspec

from wormspace.errors import Closed, RaceLost, Unavailable, WormError
from wormspace.log.durable_cell import ABSENT, DurableCell
from wormspace.log.errors import Deposed, NoSequencer
from wormspace.log.messages import (
    Answer,
    Ask,
    Given,
    Ping,
    Question,
    encode,
    read_answer,
    read_question,
)
from wormspace.log.ongoing import Ongoing
from wormspace.log.sequencer import Sequencer
from wormspace.rpc import Caller, Failure, NoAnswer, Patience, Service
from wormspace.runtime.endpoints import PORT_MAX
from wormspace.runtime.retrying import RETRY_S

log = logging.getLogger("wormspace.log")

PATIENCE_S = 1.0
"""How long a sequencer may stay silent, at first, before it is asked whether it is there at all."""

PINGS = 2
"""Of that time it has so much to answer that: one in so many.  Then it is replaced."""

LOOK_S = 0.5
"""How often who stands by looks whether there is a sequencer."""

SERVICE = "wormlog/"
"""The service's name, before the log's and the sequencer's id."""

MakeSequencer = Callable[[Callable[[], Coroutine[Any, Any, bool]]], Sequencer]


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """Where the sequencer is; with port 0, that there is none.

    Attributes:
        id: of this very sequencer.  Another one may have its address one day, even of a log of the
            same name in another deployment, whose positions must never be taken for this log's.
    """

    host: str
    port: Annotated[int, msgspec.Meta(ge=0, le=PORT_MAX)]
    id: bytes = b""

    def service(self, log_name: str) -> str:
        """What it is asked for."""
        return f"{SERVICE}{log_name}/{self.id.hex()}"


class PositionSource(Protocol):
    """A way to positions."""

    def give_now(self, ask: Ask) -> Given | None:
        """Positions without waiting, if that is possible."""

    async def ask(self, question: Question, deadline: float) -> Answer:
        """The sequencer's answer.

        Raises:
            Unavailable: none in time; positions may have been handed out that nobody will use.
        """

    async def close(self) -> None:
        """Hand out and ask for nothing more."""


class OwnPositions:
    """Each appender hands out positions to itself: there is no sequencer.

    Where several append to one log, each takes the term from the other, append by append.  In an
    embedded address space all handles of a log share one.

    Attributes:
        users: how many logs use it; it is closed by the last of them.
    """

    def __init__(self, sequencer: Sequencer) -> None:
        self.users = 1
        self._sequencer = sequencer
        self._closed = False

    def give_now(self, ask: Ask) -> Given | None:
        return None if self._closed else self._sequencer.give_now(ask)

    async def ask(self, question: Question, deadline: float) -> Answer:
        trouble: WormError | None = None
        try:
            async with asyncio.timeout_at(deadline):
                while not self._closed:
                    try:
                        return await self._sequencer.answer(question)
                    except RaceLost as e:
                        trouble = e
        except TimeoutError:
            raise Unavailable(f"no position in time; {_why(trouble)}") from trouble
        raise Closed("the log was closed")

    async def close(self) -> None:
        self.users -= 1
        if not self.users:
            self._closed = True
            await self._sequencer.close()


class _Here:
    """The sequencer is in this process, and others may ask it, too."""

    def __init__(self, number: int, sequencer: Sequencer, service: Service) -> None:
        self.number = number
        self.sequencer = sequencer
        self._service = service

    async def ask(self, question: Question, timeout: float) -> Answer:
        try:
            async with asyncio.timeout(timeout):
                return await self.sequencer.answer(question)
        except TimeoutError:
            raise Unavailable(f"no position in time; {_why(None)}") from None

    async def close(self) -> None:
        await self._service.stop()
        await self.sequencer.close()


class _There:
    """The sequencer is in another process."""

    def __init__(self, number: int, caller: Caller, service: str, patience: Patience) -> None:
        self.number = number
        self._caller = caller
        self._service = service
        self._patience = patience
        self._silent_since: float | None = None  # the first question that got no answer

    async def ask(self, question: Question, timeout: float) -> Answer:
        # Who asked before may have had less time than patience lasts: it is silent since then.
        waits_s = self._patience.seconds
        if self._silent_since is not None:
            waits_s -= asyncio.get_running_loop().time() - self._silent_since
        if waits_s <= 0:
            raise NoAnswer(f"{self._caller}: it has been silent for too long")
        return read_answer(await self._call(question, min(timeout, waits_s)))

    async def is_there(self) -> bool:
        """Whether it answers at all."""
        try:
            await self._call(Ping(), self._patience.question_s)
        except (NoAnswer, Failure):
            return False
        return True

    async def _call(self, question: Question, timeout: float) -> bytes:
        loop = asyncio.get_running_loop()
        asked = loop.time()
        try:
            raw = await self._caller.call(self._service, encode(question), timeout)
        except Failure:
            self._silent_since = None
            raise
        except (NoAnswer, asyncio.CancelledError):
            if self._silent_since is None:
                self._silent_since = asked
            raise
        self._silent_since = None
        self._patience.answered(loop.time() - asked)
        return raw

    async def close(self) -> None:
        await self._caller.close()


class SequencerClient:
    """Asks the announced sequencer; where there is none, becomes it.

    Args:
        name: the log's.
        cell: where sequencers announce themselves.
        make: makes a sequencer for this process, given what it asks when it lost its term.
        host: where a sequencer in this process listens, and is announced.
        port: the same.
        may_become: whether one may be started here; if not, wait for another process to do it.
    """

    def __init__(
        self,
        name: str,
        cell: DurableCell[Announcement],
        make: MakeSequencer,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        may_become: bool = True,
    ) -> None:
        self._name = name
        self._cell = cell
        self._make = make
        self._host = host
        self._port = port
        self._may_become = may_become
        self._at: _Here | _There | None = None
        self._patience = Patience(PATIENCE_S, PINGS)
        self._moving: Ongoing[None] = Ongoing(f"log {name}: a new sequencer")
        self._closed = False

    @property
    def is_here(self) -> bool:
        """Whether the sequencer is in this process."""
        return isinstance(self._at, _Here)

    def give_now(self, ask: Ask) -> Given | None:
        at = self._at
        return at.sequencer.give_now(ask) if isinstance(at, _Here) else None

    async def ask(self, question: Question, deadline: float) -> Answer:
        loop = asyncio.get_running_loop()
        trouble: WormError | None = None
        try:
            async with asyncio.timeout_at(deadline):
                while not self._closed:
                    at = self._at
                    try:
                        if at is None:
                            await self._move(None)
                        else:
                            return await at.ask(question, deadline - loop.time())
                    except (NoAnswer, Failure, Unavailable, Deposed) as e:
                        trouble = e
                        if at is None:
                            await asyncio.sleep(RETRY_S)
                        else:
                            await self._doubt(at, e)
        except TimeoutError:
            pass
        if self._closed:
            raise Closed("the log was closed")
        why = f"; the last trouble: {trouble}" if trouble else ""
        raise NoSequencer(f"log {self._name!r}: no sequencer answered in time{why}") from trouble

    async def stand_by(self) -> None:
        """Be the sequencer whenever there is no other; without end.

        Raises:
            StoreError, Refused: nothing that waiting would mend.
        """
        while not self._closed:
            at = self._at
            try:
                if at is None:
                    await self._move(None)
                    continue
                if isinstance(at, _Here):
                    await at.sequencer.start()
                    found = await self._cell.get()
                    replaced = found is not None and found[0] > at.number
                else:
                    replaced = not await at.is_there()
                if replaced:
                    await self._move(at)
            except (Unavailable, Deposed) as e:
                log.info("log %s: standing by: %s", self._name, e)
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        self._closed = True
        await self._moving.close()
        at, self._at = self._at, None
        if at is not None:
            await at.close()
            if isinstance(at, _Here):
                await self._say_goodbye(at)
        await self._cell.close()

    async def _say_goodbye(self, at: _Here) -> None:
        try:
            async with asyncio.timeout_at(self._cell.deadline()):
                await self._cell.replace(at.number, Announcement("", 0))
        except (WormError, TimeoutError) as e:
            log.info("log %s: left without a word: %s", self._name, e)

    # ------------------------------------------------------------ the next sequencer

    async def _doubt(self, at: _Here | _There, error: WormError) -> None:
        """It gave no answer: find out whether it has been replaced, or must be."""
        if isinstance(at, _Here) and isinstance(error, Unavailable):
            # The servers are away; another sequencer would not reach them either.
            await asyncio.sleep(RETRY_S)
            return
        is_silent = isinstance(at, _There) and isinstance(error, NoAnswer)
        try:
            await self._move(at, is_sure=not is_silent)
        except (Unavailable, RaceLost) as e:
            log.info("log %s: no new sequencer yet: %s", self._name, e)
            await asyncio.sleep(RETRY_S)

    async def _move(self, gone: _Here | _There | None, *, is_sure: bool = True) -> None:
        """Turn to another sequencer than the one that is gone: the announced one, or this one.

        It goes on when the caller has no more time for it: who asks next finds it done.

        Args:
            is_sure: that it is gone; else it is asked first.
        """
        if self._moving.is_under_way or (self._at is gone and not self._closed):
            await self._moving.join(lambda: self._find_next(gone, is_sure))

    async def _find_next(self, gone: _Here | _There | None, is_sure: bool) -> None:
        if not is_sure and isinstance(gone, _There) and await gone.is_there():
            return
        found = await self._cell.get()
        number = found[0] if found else ABSENT
        there = found[1] if found and found[1].port else None
        if there is not None and (gone is None or number > gone.number):
            caller = Caller(there.host, there.port)
            service = there.service(self._name)
            await self._turn_to(_There(number, caller, service, self._patience))
        elif isinstance(gone, _Here) and number == gone.number:
            pass  # it lost the term to one that is not announced, and takes it back
        elif self._may_become:
            if await self._become(number) and there is not None:
                self._patience.ran_out()
        else:
            await asyncio.sleep(RETRY_S)

    async def _turn_to(self, to: _Here | _There) -> None:
        before, self._at = self._at, to
        if before is not None:
            await before.close()

    async def _become(self, expected: int) -> bool:
        """Announce a sequencer in this process, in place of number `expected`.

        Returns whether it was the first to; else that one is to be asked.
        """
        mine: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def may_renew() -> bool:
            number = await asyncio.shield(mine)  # the first question may be quicker than we are
            found = await self._cell.get()
            return found is not None and found[0] == number

        sequencer = self._make(may_renew)

        async def serve(body: bytes) -> bytes:
            return encode(await sequencer.answer(read_question(body)))

        announced = Announcement(self._host, 0, self._cell.nonce())
        service = Service({announced.service(self._name): serve})
        try:
            port = await service.start(self._host, self._port)
        except WormError as e:
            raise Unavailable(f"no sequencer can be here: {e}") from e
        number = None
        try:
            announced = msgspec.structs.replace(announced, port=port)
            number = await self._cell.replace(expected, announced)
        finally:
            if number is None:
                mine.cancel()
                await service.stop()
        if number is None:
            return False
        mine.set_result(number)
        log.info("log %s: this process is sequencer %d, at port %d", self._name, number, port)
        await self._turn_to(_Here(number, sequencer, service))
        return True


def _why(trouble: WormError | None) -> str:
    """What kept a sequencer in this process from answering."""
    if trouble is None:
        return "its sequencer, in this process, waits for a majority of the servers"
    return f"the last trouble: {trouble}"
