"""A key-value store at another site, as a participant of transactions that run here."""

from __future__ import annotations

from typing import Protocol

from wormspace.errors import UsageError, WormError
from wormspace.rpc import Caller, NoAnswer
from wormspace.runtime.closing import Closing
from wormspace.runtime.endpoints import Endpoint
from wormspace.tx.checking import check_key, check_value
from wormspace.tx.errors import Conflict, ManagerDown
from wormspace.tx.managers import Branch
from wormspace.tx.messages import (
    SERVICE,
    Finish,
    Identify,
    ListPrepared,
    Operate,
    Plan,
    Rollback,
    ToSite,
    ToSpace,
    decode_gids,
    decode_said,
    encode,
)
from wormspace.tx.names import Gid, TxId, branches_of, check_name
from wormspace.tx.operations import DELETE, GET, PUT, Operation, decode_found
from wormspace.tx.peers import Peers
from wormspace.tx.space import TransactionSpace

TIMEOUT_S = 5.0


class Planner(Protocol):
    """What a session needs of its transaction to let its store vote unasked."""

    def plan_now(self, manager: str) -> Plan:
        """The plan, fixed from now on; this manager is told to vote."""


class RemoteStore(Closing):
    """A store that a site elsewhere hosts.

    Args:
        name: the store's name.
        address: HOST:PORT of its site.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name = check_name(name)
        self.address = address
        self._caller = Caller(*Endpoint.parse(address))
        self._identity = ""

    def __repr__(self) -> str:
        return f"<RemoteStore {self.name!r} at {self.address}>"

    def belong_to(self, home: TransactionSpace) -> None:
        """Be asked only as a store of this transaction space.

        Raises:
            UsageError: it is one of another.
        """
        if self._identity not in ("", home.identity):
            raise UsageError(
                f"store {self.name!r} at {self.address} takes part in another transaction space "
                f"already, not in {home.name!r}: make a RemoteStore for each"
            )
        self._identity = home.identity

    def session(self, peers: Peers, txid: TxId, planner: Planner) -> RemoteSession:
        """A transaction's session there; it begins with its first operation."""
        self.belong_to(peers.vote_store.home)
        return RemoteSession(self, peers, txid, planner)

    async def commit(self, gid: Gid) -> None:
        """See ResourceManager."""
        await self._call(Finish(str(gid), True), gid.identity)

    async def abort(self, gid: Gid) -> None:
        """See ResourceManager."""
        await self._call(Finish(str(gid), False), gid.identity)

    async def prepared(self) -> list[Gid]:
        """See ResourceManager.

        Raises:
            UsageError: it belongs to no transaction space yet, so nobody knows whom to ask.
        """
        raw = await self._call(ListPrepared(self.name), self._belongs_to())
        return branches_of(self.name, decode_gids(raw))

    async def identity(self, timeout: float | None = None, *, meant: str = "") -> str:
        """See ResourceManager.

        Raises:
            UsageError: as `prepared`.
        """
        raw = await self._call(
            Identify(self.name), self._belongs_to(), min(TIMEOUT_S, timeout or TIMEOUT_S)
        )
        return raw.decode(errors="replace")

    def _belongs_to(self) -> str:
        if not self._identity:
            raise UsageError(f"store {self.name!r} was not used in any transaction space yet")
        return self._identity

    async def begin(self, gid: Gid, timeout: float | None = None) -> Branch:
        """Remote branches begin at their site, with the first operation of a session."""
        raise UsageError(f"{self.name!r} is elsewhere: work with its session")

    def is_conflict(self, error: BaseException) -> bool:
        """See ResourceManager."""
        return isinstance(error, Conflict)

    async def close(self) -> None:
        """Disconnect."""
        await self._caller.close()

    async def _call(self, message: ToSite, identity: str, timeout: float = TIMEOUT_S) -> bytes:
        try:
            return await self._caller.call(SERVICE, encode(ToSpace(identity, message)), timeout)
        except WormError as e:
            raise ManagerDown(f"store {self.name!r} at {self.address}: {e}") from e


class RemoteSession:
    """As `KvBranch`, at another site.

    With `last=True`, the store is told that nothing more will come, so that it votes as soon as the
    operation is done (variant F2 only).
    """

    def __init__(self, store: RemoteStore, peers: Peers, txid: TxId, planner: Planner) -> None:
        self._store = store
        self._peers = peers
        self._id = txid
        self._planner = planner
        self._over = False
        self.used = False

    def __repr__(self) -> str:
        return f"<RemoteSession of {self._store.name!r} in {self._id}>"

    async def get(self, key: bytes, *, last: bool = False) -> bytes | None:
        """The value of `key`, or None; nobody else writes it until this transaction is over."""
        return decode_found(await self._do(Operation(GET, check_key(key)), last)).value

    async def put(self, key: bytes, value: bytes, *, last: bool = False) -> None:
        """Set `key`."""
        await self._do(Operation(PUT, check_key(key), check_value(value)), last)

    async def delete(self, key: bytes, *, last: bool = False) -> None:
        """Forget `key`."""
        await self._do(Operation(DELETE, check_key(key)), last)

    def rollback(self) -> None:
        """Undo the work there, in the background."""
        if self.used:
            message = Rollback(self._id, self._store.name)
            self._peers.spawn(self._peers.call(self._store.address, message, TIMEOUT_S))

    async def _do(self, operation: Operation, last: bool) -> bytes:
        name = self._store.name
        if self._over:
            raise UsageError(
                f"store {name!r} was told with last=True that nothing more comes, and has voted: "
                "give last=True with its last operation only"
            )
        self.used = True
        plan = self._planner.plan_now(name) if last else None
        self._over = last
        message = Operate(self._id, name, encode(operation), plan)
        try:
            said = decode_said(await self._peers.call(self._store.address, message, TIMEOUT_S))
        except NoAnswer as e:
            raise ManagerDown(f"store {name!r}: {e}") from e
        if said.conflict:
            raise Conflict(said.problem)
        if said.problem:
            raise UsageError(said.problem)
        return said.value
