"""A node without sockets: a port that keeps what it is told, and stores that misbehave."""

from __future__ import annotations

import asyncio

from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import Write
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import Failed

B1, B2, B3 = (ballot(n, b"proposer") for n in (1, 2, 3))


class Port:
    """A client of a node, without a socket."""

    def __init__(self):
        self.answers = []
        self.full = False

    def answer(self, request_id, message):
        self.answers.append((request_id, message))

    def congested(self):
        return self.full

    def of(self, request_id):
        """What came for one request."""
        return [message for i, message in self.answers if i == request_id]


async def settled(node):
    """Wait until the node has nothing more to do."""
    while node._worker:
        await asyncio.wait([node._worker])


class Touchy(MemoryEngine):
    """A store in which some keys raise when they are looked up, or every commit does.

    Attributes:
        bad: raises, given table and key, or does not.
        commit_error: what every commit raises, if anything.
    """

    def __init__(self):
        super().__init__()
        self.bad = lambda table, key: None
        self.commit_error = None
        self.commits = 0

    @property
    def view(self):
        return self._watch(super().view)

    def begin(self):
        return self._watch(super().begin())

    def _watch(self, view):
        return _Watched(view, self)

    async def commit(self, batch):
        self.commits += 1
        if self.commit_error is not None:
            batch.abort()
            raise self.commit_error
        await super().commit(batch.inner)


class _Watched:
    """A view or batch that asks before it looks anything up."""

    def __init__(self, inner, engine):
        self.inner, self.engine = inner, engine

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def get(self, table, key):
        self.engine.bad(table, key)
        return self.inner.get(table, key)

    def get_many(self, table, keys):
        for key in keys:
            self.engine.bad(table, key)
        return self.inner.get_many(table, keys)

    def scan(self, table, lo, hi):
        for key, value in self.inner.scan(table, lo, hi):
            self.engine.bad(table, key)
            yield key, value

    def floor(self, table, key):
        found = self.inner.floor(table, key)
        if found is not None:
            self.engine.bad(table, found[0])
        return found


class Held(MemoryEngine):
    """Commits one batch when `go` is called, and all of them if it is `open`.

    Attributes:
        error: what a commit raises, if anything.
        commits: when each began.
    """

    def __init__(self, is_open: bool = False) -> None:
        super().__init__()
        self.open, self.error = is_open, None
        self.commits: list[float] = []
        self._gate = asyncio.Semaphore(0)

    def go(self) -> None:
        self._gate.release()

    async def commit(self, batch) -> None:
        self.commits.append(asyncio.get_running_loop().time())
        if not self.open:
            await self._gate.acquire()
        if self.error is not None:
            batch.abort()
            raise self.error
        await super().commit(batch)


def write(offset: int, count: int = 1, space: str = "s", b: bytes = B1) -> Write:
    return Write(space, 0, b, list(range(offset, offset + count)), [b"v"] * count)


async def turns(n: int = 30) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def codes(port: Port) -> dict[int, str]:
    return {i: m.code for i, m in port.answers if isinstance(m, Failed)}
