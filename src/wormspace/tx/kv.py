"""The built-in resource manager: a transactional key-value store over durable local storage.

Strict two-phase locking with immediate restart: a read takes a shared lock, a write an exclusive
one, all are held until the outcome takes effect, also across a crash (a prepared branch's record
names its locks, read ones included).  Writes stay in the branch until it is prepared.  So
transactions over any number of stores, on any number of nodes, are strictly serialisable.

All changes that are ready when the disk is, prepares and outcomes alike, share one sync.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from wormspace.errors import StoreError, UsageError, WrongIdentity
from wormspace.tx.errors import CannotPrepare, Conflict
from wormspace.tx.locks import Locks, Owner
from wormspace.tx.names import Gid, check_name
from wormspace.tx.operations import DELETE, GET, PUT, Found, decode_operation
from wormspace.tx.storage import Engine

log = logging.getLogger("wormspace.tx")

_NAME = b"name"
_TOP = b"\xff" * 128

Change = tuple[str, bytes, bytes | None]


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """A prepared branch on disk: what it writes, and the keys it only read."""

    writes: dict[bytes, bytes | None]
    reads: list[bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


RETRY_S = 0.5
LAZY_S = 0.02

_Entry = tuple[list[Change], "asyncio.Future[None] | None", "Callable[[], None] | None"]


class _Writer:
    """Group commit: whatever waits while the disk is busy is committed together, in order.

    A promise that the disk refuses fails.  An outcome must not, for what came after it builds on
    it: it stays at the head of the queue until the disk takes it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: list[_Entry] = []
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def promise(self, changes: list[Change]) -> asyncio.Future[None]:
        """Done when the changes are durable; `StoreError` if they are not, and will not be."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.append((changes, future, None))
        self._start()
        return future

    def outcome(self, changes: list[Change], on_durable: Callable[[], None]) -> None:
        """Changes that will be durable, however often it takes; then `on_durable` is called.

        Nobody waits for them, so they wait a moment for a promise to share its sync.
        """
        self._queue.append((changes, None, on_durable))
        if self._task is None and self._timer is None:
            self._timer = self._loop.call_later(LAZY_S, self._start)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        while self._queue:
            queue, self._queue = self._queue, []
            try:
                batch = self._engine.begin()
                for changes, _, _ in queue:
                    for table, key, value in changes:
                        if value is None:
                            batch.delete(table, key)
                        else:
                            batch.put(table, key, value)
                await self._engine.commit(batch)
            except StoreError as e:
                self._on_failed(queue, e)
                await asyncio.sleep(RETRY_S)
            else:
                for _, future, on_durable in queue:
                    if on_durable is not None:
                        on_durable()
                    elif future is not None and not future.done():
                        future.set_result(None)
        self._task = None

    def _on_failed(self, queue: list[_Entry], error: StoreError) -> None:
        log.warning("tx: a store cannot be written: %s", error)
        for _, future, _ in queue:
            if future is not None and not future.done():
                future.set_exception(error)
        self._queue = [entry for entry in queue if entry[1] is None] + self._queue

    async def drain(self) -> None:
        """Until nothing is under way."""
        while self._queue or self._task is not None:
            self._start()
            if self._task is not None:
                await asyncio.wait([self._task])


class _Prepared:
    """A branch that has promised; `ended`: its outcome is known, but not durable yet."""

    __slots__ = ("ended", "key", "owner", "writes")

    def __init__(self, key: bytes, owner: Owner, writes: dict[bytes, bytes | None]) -> None:
        self.key = key
        self.owner = owner
        self.writes = writes
        self.ended = False


class KeyValueStore:
    """A resource manager in this process; get it from `open`.

    Other processes reach it through a `Site` that has it, as a `RemoteStore`.
    """

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = check_name(name)
        self.locks = Locks()
        self._engine = engine
        self._writer = _Writer(engine)
        self._prepared: dict[Gid, _Prepared] = {}
        self._fresh: dict[bytes, tuple[Gid, bytes | None]] = {}
        for key, raw in engine.view.scan("prepared", b"", _TOP):
            gid = Gid.parse(key.decode())
            if gid is None:
                raise StoreError(f"store {name!r} holds a branch of nobody: {key!r}")
            record = _decode(raw)
            owner = Owner()
            owner.prepared = True
            for read in record.reads:
                self.locks.take(owner, read, exclusive=False)
            for written in record.writes:
                self.locks.take(owner, written, exclusive=True)
            self._prepared[gid] = _Prepared(key, owner, record.writes)

    @classmethod
    async def open(cls, name: str, engine: Engine) -> KeyValueStore:
        """The store of that name, with what it has promised; a fresh engine becomes that store.

        Raises:
            WrongIdentity: the engine holds the store of another name.
            StoreError.
        """
        held = engine.view.get("identity", _NAME)
        if held is not None and held != name.encode():
            raise WrongIdentity(f"this is the store of {held.decode()!r}, not of {name!r}")
        store = cls(name, engine)
        if held is None:
            await store._writer.promise([("identity", _NAME, name.encode())])
        return store

    async def begin(self, gid: Gid) -> KvBranch:
        return KvBranch(self, gid)

    async def commit(self, gid: Gid) -> None:
        """See ResourceManager.

        It takes effect at once; it is listed as prepared until that is durable, which needs not be
        waited for: after a crash, the votes say again what it was.
        """
        branch = self._prepared.get(gid)
        if branch is not None and not branch.ended:
            changes: list[Change] = []
            for key, value in branch.writes.items():
                changes.append(("data", key, value))
                self._fresh[key] = (gid, value)
            self._end(gid, branch, changes)

    async def abort(self, gid: Gid) -> None:
        branch = self._prepared.get(gid)
        if branch is not None and not branch.ended:
            self._end(gid, branch, [])

    async def prepared(self) -> list[Gid]:
        return list(self._prepared)

    async def close(self) -> None:
        await self._writer.drain()
        self._engine.close()

    def value(self, key: bytes) -> bytes | None:
        """What is committed under `key`."""
        if key in self._fresh:
            return self._fresh[key][1]
        return self._engine.view.get("data", key)

    def items(self) -> dict[bytes, bytes]:
        """All that is committed and durable, as of one moment; for people and checks."""
        return dict(self._engine.view.scan("data", b"", _TOP))

    def _end(self, gid: Gid, branch: _Prepared, changes: list[Change]) -> None:
        """Let the locks go; whoever comes next is written to the disk after this."""

        def on_durable() -> None:
            del self._prepared[gid]
            for key in branch.writes:
                if key in self._fresh and self._fresh[key][0] == gid:
                    del self._fresh[key]

        branch.ended = True
        self._writer.outcome([*changes, ("prepared", branch.key, None)], on_durable)
        self.locks.release(branch.owner)

    async def promise(
        self, gid: Gid, owner: Owner, writes: dict[bytes, bytes | None], reads: list[bytes]
    ) -> None:
        """Make a branch durable.

        Raises:
            CannotPrepare: the disk refuses.
        """
        owner.prepared = True
        key = str(gid).encode()
        self._prepared[gid] = _Prepared(key, owner, writes)
        record = _encode(_Record(writes, reads))
        try:
            await self._writer.promise([("prepared", key, record)])
        except StoreError as e:
            self._prepared.pop(gid, None)
            self.locks.release(owner)
            raise CannotPrepare(f"store {self.name!r}: {e}") from e


class KvBranch:
    """One transaction's work in one store; it is its own session.

    Keys are 1 to 127 bytes, values bytes.  Every operation raises `Conflict` when it meets another
    transaction's lock; the transaction is aborted then, and may be run again.
    """

    def __init__(self, store: KeyValueStore, gid: Gid) -> None:
        self._store = store
        self._gid = gid
        self._owner = Owner()
        self._writes: dict[bytes, bytes | None] = {}
        self._conflict: Conflict | None = None
        self._over = False

    @property
    def session(self) -> KvBranch:
        return self

    async def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None; nobody else writes it until this transaction is over."""
        await self._lock(key, exclusive=False)
        if key in self._writes:
            return self._writes[key]
        return self._store.value(key)

    async def put(self, key: bytes, value: bytes) -> None:
        """Set `key`."""
        if type(value) is not bytes:
            raise UsageError(f"a value is bytes, not {type(value).__name__}")
        await self._lock(key, exclusive=True)
        self._writes[key] = value

    async def delete(self, key: bytes) -> None:
        """Forget `key`."""
        await self._lock(key, exclusive=True)
        self._writes[key] = None

    async def operate(self, body: bytes) -> bytes:
        """Do an operation that another process asks for; see `remote`.

        Raises:
            Conflict, UsageError.
        """
        operation = decode_operation(body)
        if operation.kind == GET:
            return _encode(Found(await self.get(operation.key)))
        if operation.kind == PUT:
            await self.put(operation.key, operation.value)
        elif operation.kind == DELETE:
            await self.delete(operation.key)
        else:
            raise UsageError(f"a store has no {operation.kind!r}")
        return b""

    async def prepare(self) -> None:
        if self._conflict is not None:
            await self.rollback()
            raise self._conflict
        if self._over:
            raise CannotPrepare("its work was rolled back")
        self._over = True
        reads = [key for key, exclusive in self._owner.held.items() if not exclusive]
        await self._store.promise(self._gid, self._owner, self._writes, reads)

    async def rollback(self) -> None:
        self._over = True
        if not self._owner.prepared:
            self._store.locks.release(self._owner)

    async def _lock(self, key: bytes, *, exclusive: bool) -> None:
        if type(key) is not bytes or not 0 < len(key) <= 127:
            raise UsageError(f"a key is 1 to 127 bytes, not {key!r}")
        if self._over:
            raise UsageError("this branch is over")
        held = self._owner.held.get(key)
        if held is not None and held >= exclusive:
            return
        try:
            await self._store.locks.acquire(self._owner, key, exclusive=exclusive)
        except Conflict as e:
            self._conflict = e
            raise
        if self._over:  # rolled back while it waited
            self._store.locks.release(self._owner)
            raise UsageError("this branch is over")
