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
import random
from collections.abc import Awaitable, Callable

import msgspec

from wormspace.errors import (
    NewerFormat,
    StoreError,
    StoreFull,
    UsageError,
    WormError,
    WrongIdentity,
)
from wormspace.malformed import MALFORMED
from wormspace.runtime.closing import Closing
from wormspace.runtime.tasks import Tasks
from wormspace.space.arguments import as_rng
from wormspace.store.engine import Batch, Engine
from wormspace.tx.checking import check_engine, check_key, check_value
from wormspace.tx.errors import CannotPrepare, Conflict, ManagerDown
from wormspace.tx.locks import Locks, Owner
from wormspace.tx.names import Gid, check_name
from wormspace.tx.operations import DELETE, GET, PUT, Found, decode_operation

log = logging.getLogger("wormspace.tx")

_NAME, _FORMAT, _IDENTITY = b"name", b"format", b"identity"
STORE_FORMAT = 1
_TOP = b"\xff" * 128


class _Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A prepared branch on disk: what it writes, and the keys it only read."""

    writes: dict[bytes, bytes | None]
    reads: list[bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


RETRY_S = 0.5
LAZY_S = 0.02

_Promise = tuple["KvBranch", bytes, "asyncio.Future[None]"]


class _Writer:
    """Group commit: whatever waits while the disk is busy is committed together.

    A promise that a full disk refuses fails.  An outcome must not, for what came after it builds on
    it: it is tried again until there is room.  After any other error nobody knows what the store
    holds, and it takes nothing any more: it has ended, and says so to all.

    Attributes:
        broken: why it has ended, if it has.

    Args:
        on_refused: told of promises that will never be durable.
        on_durable: told of outcomes that are.
    """

    def __init__(
        self,
        engine: Engine,
        on_refused: Callable[[KvBranch], None],
        on_durable: Callable[[KvBranch], None],
    ) -> None:
        self._engine = engine
        self._on_refused = on_refused
        self._on_durable = on_durable
        self._promises: list[_Promise] = []
        self._ended: list[KvBranch] = []
        self._data: dict[bytes, bytes | None] = {}
        self._leaving: dict[bytes, bytes | None] = {}
        self._failing = False
        self.broken: ManagerDown | None = None
        self._tasks = Tasks("a store's commits")
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def get(self, key: bytes) -> bytes | None:
        """What is committed under `key`, durable or not.

        Raises:
            ManagerDown: the store has ended.
        """
        self.check()
        if key in self._data:
            return self._data[key]
        if key in self._leaving:
            return self._leaving[key]
        return self._engine.view.get("data", key)

    def promise(self, branch: KvBranch, record: bytes) -> asyncio.Future[None]:
        """Done when the branch is durable; `StoreError` if it is not, and will not be."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self.broken is not None:
            future.set_exception(self.broken)
            return future
        self._promises.append((branch, record, future))
        if self._task is None:
            self._start()
        return future

    def check(self) -> None:
        """
        Raises:
            ManagerDown: the store has ended.
        """
        if self.broken is not None:
            raise self.broken

    def end(self, branch: KvBranch, *, commit: bool) -> None:
        """The branch is committed or aborted; that will be durable, however often it takes.

        Nobody waits for it, so it waits a moment for a promise to share its sync.
        """
        if commit:
            self._data.update(branch.writes)
        self._ended.append(branch)
        if self._task is None and self._timer is None:
            self._timer = self._loop.call_later(LAZY_S, self._start)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = self._tasks.spawn(self._run())

    async def _run(self) -> None:
        promises: list[_Promise] = []
        try:
            while self._promises or self._ended:
                promises, self._promises = self._promises, []
                ended, self._ended = self._ended, []
                await self._write(promises, ended)
        except StoreError as e:
            self._break(e, promises + self._promises)
        except BaseException as e:
            self._break(e, promises + self._promises)
            raise
        finally:
            self._task = None

    async def _write(self, promises: list[_Promise], ended: list[KvBranch]) -> None:
        self._leaving, self._data = self._data, {}
        try:
            await self._engine.commit(self._batch(promises, ended))
        except StoreFull as e:
            self._ended = ended + self._ended
            self._data = self._leaving | self._data
            self._leaving = {}
            self._refuse(promises, CannotPrepare(str(e)))
            self._failing = True
            await asyncio.sleep(RETRY_S)
        else:
            self._failing = False
            self._leaving = {}
            for branch in ended:
                self._on_durable(branch)
            for _, _, future in promises:
                if not future.done():
                    future.set_result(None)

    def _break(self, error: BaseException, promises: list[_Promise]) -> None:
        """Build nothing more on this store; what it has promised is known to the votes."""
        self.broken = ManagerDown(
            f"the store has failed half-way and is closed to all work: {error!r}; open it again"
        )
        self._promises = []
        self._refuse(promises, self.broken)

    def _batch(self, promises: list[_Promise], ended: list[KvBranch]) -> Batch:
        batch = self._engine.begin()
        data = self._leaving
        batch.put_many("prepared", [(branch.key, record) for branch, record, _ in promises])
        batch.put_many("data", [(k, v) for k, v in data.items() if v is not None])
        for key, value in data.items():
            if value is None:
                batch.delete("data", key)
        for branch in ended:
            batch.delete("prepared", branch.key)
        return batch

    def _refuse(self, promises: list[_Promise], error: WormError) -> None:
        log.warning("tx: a store cannot be written: %s", error)
        for branch, _, future in promises:
            self._on_refused(branch)
            if not future.done():
                future.set_exception(error)

    async def drain(self) -> None:
        """Until nothing is under way, or the disk refuses: the votes keep outcomes as well."""
        while self.broken is None and (self._promises or self._ended or self._task is not None):
            self._start()
            if self._task is not None:
                await asyncio.wait([self._task], timeout=RETRY_S)
            if self._failing and self._task is not None:
                log.warning("tx: a store is closed with outcomes that its disk did not take")
                self._task.cancel()
                await asyncio.wait([self._task])
                return


class KeyValueStore(Closing):
    """A resource manager in this process; get it from `open`.

    Other processes reach it through a `Site` that has it, as a `RemoteStore`.
    """

    def __init__(self, name: str, engine: Engine, identity: str) -> None:
        self.name = name
        self._identity = identity
        self.locks = Locks()
        self._engine = engine
        self._writer = _Writer(engine, self._on_refused, self._on_durable)
        self._prepared: dict[Gid, KvBranch] = {}
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done.set_result(None)
        for key, raw in engine.view.scan("prepared", b"", _TOP):
            gid = Gid.parse(key.decode(errors="replace"))
            if gid is None:
                raise StoreError(f"store {name!r} holds a branch of nobody: {key!r}")
            try:
                self._prepared[gid] = KvBranch(self, gid, _decode(raw))
            except MALFORMED as e:
                raise StoreError(f"store {name!r} is damaged: the branch {gid}: {e}") from e

    @classmethod
    async def open(
        cls, name: str, engine: Engine, rng: random.Random | None = None
    ) -> KeyValueStore:
        """The store of that name, with what it has promised; a fresh engine becomes that store.

        Args:
            engine: an open store of its own, which the key-value store closes.
            rng: draws the identity of a fresh store, which no other may have.

        Raises:
            UsageError: no store can be called that, or an argument is not what is said here.
            WrongIdentity: the engine holds the store of another name.
            NewerFormat: a newer wormspace made it.
            StoreError.
        """
        check_name(name)
        check_engine(engine)
        dice = as_rng(rng)
        held = engine.view.get("identity", _NAME)
        if held is not None and held != name.encode():
            raise WrongIdentity(f"this is the store of {held.decode()!r}, not of {name!r}")
        made = engine.view.get("identity", _FORMAT)
        if made is not None and made > bytes([STORE_FORMAT]):
            raise NewerFormat.of(f"store {name!r}", made[0], STORE_FORMAT)
        identity = engine.view.get("identity", _IDENTITY)
        if identity is not None:
            return cls(name, engine, identity.decode(errors="replace"))
        drawn = f"{dice.getrandbits(64):016x}"
        store = cls(name, engine, drawn)
        batch = engine.begin()
        batch.put_many(
            "identity",
            [
                (_FORMAT, bytes([STORE_FORMAT])),
                (_IDENTITY, drawn.encode()),
                (_NAME, name.encode()),
            ],
        )
        await engine.commit(batch)
        return store

    async def identity(self, timeout: float | None = None, *, meant: str = "") -> str:
        return self._identity

    async def begin(self, gid: Gid, timeout: float | None = None) -> KvBranch:
        self._writer.check()
        return KvBranch(self, gid)

    def commit(self, gid: Gid) -> asyncio.Future[None]:
        """See ResourceManager.

        It takes effect at once; it is listed as prepared until that is durable, which needs not be
        waited for: after a crash, the votes say again what it was.
        """
        return self._end(gid, commit=True)

    def abort(self, gid: Gid) -> asyncio.Future[None]:
        """See `commit`."""
        return self._end(gid, commit=False)

    async def prepared(self) -> list[Gid]:
        self._writer.check()
        return list(self._prepared)

    def is_conflict(self, error: BaseException) -> bool:
        return isinstance(error, Conflict)

    def __repr__(self) -> str:
        return f"<KeyValueStore {self.name!r}, {len(self._prepared)} prepared>"

    async def close(self) -> None:
        await self._writer.drain()
        self._engine.close()

    def value(self, key: bytes) -> bytes | None:
        """What is committed under `key`."""
        return self._writer.get(key)

    def items(self) -> dict[bytes, bytes]:
        """All that is committed and durable, as of one moment; for people and checks."""
        return dict(self._engine.view.scan("data", b"", _TOP))

    def promise(self, branch: KvBranch, record: _Record) -> Awaitable[None]:
        """Make a branch durable; its locks stay until it has ended.

        Raises (from what is returned):
            CannotPrepare: the disk refuses.
        """
        self._prepared[branch.gid] = branch
        return self._writer.promise(branch, _encode(record))

    def _end(self, gid: Gid, *, commit: bool) -> asyncio.Future[None]:
        """Let the locks go; whoever comes next is written to the disk after this."""
        if self._writer.broken is not None:
            return _failed(self._writer.broken)
        branch = self._prepared.get(gid)
        if branch is not None and not branch.ended:
            branch.ended = True
            self._writer.end(branch, commit=commit)
            self.locks.release(branch)
        return self._done

    def _on_refused(self, branch: KvBranch) -> None:
        self._prepared.pop(branch.gid, None)
        self.locks.release(branch)

    def _on_durable(self, branch: KvBranch) -> None:
        self._prepared.pop(branch.gid, None)


def _failed(error: Exception) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


class KvBranch(Owner):
    """One transaction's work in one store; it is its own session, and the owner of its locks.

    Keys are 1 to 127 bytes, values bytes.  Every operation raises `Conflict` when it meets another
    transaction's lock; the transaction is aborted then, and may be run again.

    Attributes:
        gid: as which it is prepared.
        key: the same, as the disk has it.
        writes: what it writes; None deletes.
        ended: whether its outcome is known, durable or not.
    """

    __slots__ = ("_conflict", "_over", "_store", "ended", "gid", "key", "writes")

    def __init__(self, store: KeyValueStore, gid: Gid, promised: _Record | None = None) -> None:
        super().__init__()
        self._store = store
        self._conflict: Conflict | None = None
        self._over = False
        self.gid = gid
        self.key = str(gid).encode()
        self.writes: dict[bytes, bytes | None] = {}
        self.ended = False
        if promised is not None:
            self._restore(promised)

    def __repr__(self) -> str:
        return f"<KvBranch {self.gid}{', over' if self._over else ''}>"

    def _restore(self, promised: _Record) -> None:
        """Take up what a former life has promised."""
        self.prepared = self._over = True
        self.writes = promised.writes
        for key in promised.reads:
            self._store.locks.take(self, key, exclusive=False)
        for key in promised.writes:
            self._store.locks.take(self, key, exclusive=True)

    @property
    def session(self) -> KvBranch:
        return self

    async def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None; nobody else writes it until this transaction is over."""
        if not self._lock(key, exclusive=False):
            await self._wait_for(key, exclusive=False)
        if key in self.writes:
            return self.writes[key]
        return self._store.value(key)

    async def put(self, key: bytes, value: bytes) -> None:
        """Set `key`."""
        check_value(value)
        if not self._lock(key, exclusive=True):
            await self._wait_for(key, exclusive=True)
        self.writes[key] = value

    async def delete(self, key: bytes) -> None:
        """Forget `key`."""
        if not self._lock(key, exclusive=True):
            await self._wait_for(key, exclusive=True)
        self.writes[key] = None

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

    def prepare(self) -> Awaitable[None]:
        """See Branch."""
        error: WormError | None = self._conflict
        if error is None and self._over:
            error = CannotPrepare("its work was rolled back")
        if error is not None:
            return self._refuse(error)
        self._over = True
        self.prepared = True
        reads = [key for key, exclusive in self.held.items() if not exclusive]
        return self._store.promise(self, _Record(self.writes, reads))

    async def _refuse(self, error: WormError) -> None:
        await self.rollback()
        raise error

    async def rollback(self) -> None:
        self._over = True
        if not self.prepared:
            self._store.locks.release(self)

    def _lock(self, key: bytes, *, exclusive: bool) -> bool:
        """Take a lock; false if somebody is in the way."""
        check_key(key)
        if self._over:
            raise UsageError("this branch is over")
        held = self.held.get(key)
        if held is not None and held >= exclusive:
            return True
        return not self._store.locks.in_the_way(self, key, exclusive)

    async def _wait_for(self, key: bytes, *, exclusive: bool) -> None:
        """Take a lock once whoever has it lets go, if that is about to happen."""
        try:
            await self._store.locks.acquire(self, key, exclusive=exclusive)
        except Conflict as e:
            self._conflict = e
            raise
        if self._over:  # rolled back while it waited
            self._store.locks.release(self)
            raise UsageError("this branch is over")
