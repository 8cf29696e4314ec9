"""PostgreSQL as a resource manager: `PREPARE TRANSACTION` (psycopg 3; extra `postgres`).

The server needs `max_prepared_transactions` above 0 (0 is its default).  The session is a psycopg
`AsyncConnection` inside a transaction; see `postgres_session`.

Transactions work on connections of one lane, which they may fill while they wait for each other's
rows.  What ends a prepared one, and so frees rows, has a lane of its own.

A transaction that failed before is rolled back by `PREPARE TRANSACTION`, *without an error*: only
the command tag says so (`ROLLBACK`).  That is a no.
"""

from __future__ import annotations

import asyncio

import psycopg
from psycopg import conninfo as conninfo_of
from psycopg import pq

from wormspace.errors import UsageError
from wormspace.knobs import KNOBS
from wormspace.runtime.closing import Closing
from wormspace.runtime.deadlines import left, within
from wormspace.runtime.tasks import Tasks
from wormspace.tx.checking import check_count, check_seconds
from wormspace.tx.database_identity import DatabaseIdentity, nameless
from wormspace.tx.errors import CannotPrepare, Conflict, ManagerDown
from wormspace.tx.names import Gid, branches_of, check_name
from wormspace.tx.places import Places
from wormspace.tx.postgres_identity import find, make, statements
from wormspace.tx.postgres_link import Link, line
from wormspace.tx.postgres_session import Session

TIMEOUT_S = 10.0

CONFLICTS = ("40001", "40P01", "55P03")
"""Serialization failure, deadlock, a lock that was not to be had in time: running it again may
succeed."""

_NO_PLACE = ("55000", "53200")
"""What PREPARE says where `max_prepared_transactions` is 0, or used up."""

_NOTICES_DEATH = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""So that a server whose host is gone is noticed in seconds; what the user says comes first."""


class Postgres(Closing):
    """One PostgreSQL database.

    Args:
        name: the same wherever this database takes part, and no other's.
        conninfo: as psycopg takes it, for instance `postgresql://user@host/db`.
        pool: transactions that work here at a time (default 32); each has a connection.  A quarter
            as many connections more, at least one, end what is prepared.
        timeout: seconds that connecting, or any one statement of the manager's own, may take.

    Raises:
        UsageError: one of these makes no sense.
    """

    def __init__(
        self, name: str, conninfo: str, *, pool: int | None = None, timeout: float = TIMEOUT_S
    ) -> None:
        self.name = check_name(name)
        self.timeout = check_seconds("a timeout", timeout)
        size = KNOBS.tx_pool if pool is None else check_count("a pool", pool)
        self.database = DatabaseIdentity(name)
        self._work = _Lane(self, _complete(conninfo), size)
        self._ends = _Lane(self, _complete(conninfo), (size + 3) // 4)

    def __repr__(self) -> str:
        return f"<Postgres {self.name!r}>"

    async def identity(self, timeout: float | None = None, *, meant: str = "") -> str:
        database, deadline = self.database, self._within(timeout)
        if not database.known:
            link, _ = await self._ends.run(b"SELECT", deadline)
            try:
                if not database.known and meant:
                    raise nameless(self.name, meant, statements(meant))
                if not database.known:
                    database.recognise(await make(link, self.name, deadline))
            except BaseException:
                self._ends.drop(link)
                raise
            self._ends.give_back(link)
        return database.known

    def _within(self, timeout: float | None) -> float:
        return within(min(self.timeout, timeout or self.timeout))

    async def begin(self, gid: Gid, timeout: float | None = None) -> PostgresBranch:
        deadline = self._within(timeout)
        link, _ = await self._work.run(b"BEGIN", deadline)
        return PostgresBranch(self._work, link, gid)

    async def commit(self, gid: Gid) -> None:
        await self._end(b"COMMIT PREPARED %s", gid)

    async def abort(self, gid: Gid) -> None:
        await self._end(b"ROLLBACK PREPARED %s", gid)

    async def prepared(self) -> list[Gid]:
        listing = b"SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        link, found = await self._ends.run(listing, within(self.timeout))
        texts = [found.get_value(row, 0) or b"" for row in range(found.ntuples)]
        self._ends.give_back(link)
        return branches_of(self.name, [text.decode(errors="replace") for text in texts])

    async def close(self) -> None:
        await self._work.close()
        await self._ends.close()

    def is_conflict(self, error: BaseException) -> bool:
        return isinstance(error, psycopg.Error) and error.sqlstate in CONFLICTS

    async def _end(self, command: bytes, gid: Gid) -> None:
        try:
            link, _ = await self._ends.run(command, within(self.timeout), str(gid))
        except psycopg.errors.UndefinedObject:
            pass  # it is over already, or was never prepared
        except psycopg.Error as e:  # for instance: another session is finishing it right now
            raise ManagerDown(f"{self.name}: {line(e)}") from e
        else:
            self._ends.give_back(link)


class PostgresBranch:
    """One transaction's work in one PostgreSQL database."""

    def __init__(self, lane: _Lane, link: Link, gid: Gid) -> None:
        self._lane = lane
        self._link = link
        self._session: Session | None = link.open_session()
        self._gid = gid

    @property
    def session(self) -> Session:
        if self._session is None:
            raise UsageError("this transaction is over, and its session with it")
        return self._session

    async def prepare(self) -> None:
        session, link, name = self._take(), self._link, self._lane.manager.name
        if session is None:
            raise CannotPrepare(f"{name}: the work was rolled back")
        if session.lost or session.ended:
            self._lane.drop(link)
            raise CannotPrepare(f"{name}: a statement of its user lost or ended the work")
        if not link.is_quiet:
            self._lane.drop(link)
            raise CannotPrepare(
                f"{name}: a statement was still under way when the block ended: await each"
            )
        try:
            result = await link.run(
                b"PREPARE TRANSACTION " + link.literal(str(self._gid)),
                within(self._lane.manager.timeout),
            )
        except BaseException as e:
            self._lane.drop(link)
            if isinstance(e, psycopg.Error):
                raise self._refusal(e) from e
            raise
        status = result.command_status
        self._lane.renew(link)
        if status != b"PREPARE TRANSACTION":
            raise CannotPrepare(
                f"{name}: the transaction had failed before, so that "
                "PREPARE TRANSACTION rolled it back"
            )

    def _refusal(self, e: psycopg.Error) -> CannotPrepare | Conflict:
        """Why PREPARE TRANSACTION failed, and what to do."""
        manager = self._lane.manager
        if manager.is_conflict(e):
            return Conflict(f"{manager.name}: {line(e)}")
        if e.sqlstate in _NO_PLACE:
            return CannotPrepare(
                f"{manager.name}: {line(e)}; set max_prepared_transactions to at least the number "
                "of transactions in flight, of all programs, and restart PostgreSQL"
            )
        return CannotPrepare(f"{manager.name}: {line(e)}")

    async def rollback(self) -> None:
        session, link = self._take(), self._link
        if session is None:
            return
        try:
            if link.is_sound and link.is_quiet and not link.is_idle:
                await link.run(b"ROLLBACK", within(self._lane.manager.timeout))
        except (ManagerDown, psycopg.Error):
            self._lane.drop(link)  # the server rolls back when the connection is gone
        except BaseException:
            self._lane.drop(link)
            raise
        else:
            if link.is_sound and link.is_idle:
                self._lane.renew(link)
            else:
                self._lane.drop(link)

    def _take(self) -> Session | None:
        """The session, which is the user's no longer; None if that was done before."""
        session, self._session = self._session, None
        if session is not None:
            session.over = True
            self._link.given_up = session.lost or not self._link.is_quiet
        return session


class _Lane:
    """Connections for one purpose, made when they are needed.

    Args:
        size: how many there are at most.
    """

    def __init__(self, manager: Postgres, conninfo: str, size: int) -> None:
        self.manager = manager
        self._conninfo = conninfo
        self._places = Places(manager.name, size)
        self._idle: list[Link] = []
        self._tasks = Tasks(f"{manager.name}: a connection")
        self._closed = False

    async def run(
        self, statement: bytes, deadline: float, argument: str | None = None
    ) -> tuple[Link, pq.abc.PGresult]:
        """Run a statement that may be repeated, for a connection that was idle may be dead.

        Args:
            argument: goes into the statement as a literal, for its `%s`.

        Returns:
            The connection it ran on, to be given back, and what it gave.

        Raises:
            ManagerDown: also on a fresh connection it does not work, or not in time.
            psycopg.Error: the server refuses.
        """
        while True:
            await self._places.take(deadline)
            fresh = not self._idle
            link = await self._connect(deadline) if fresh else self._idle.pop()
            share = 1.0 if fresh else 0.25
            try:
                whole = statement if argument is None else statement % link.literal(argument)
                result = await link.run(whole, within(share * left(deadline)))
            except BaseException as e:
                self.drop(link)
                if fresh or not isinstance(e, ManagerDown):
                    raise
                self._drop_idle()
            else:
                return link, result

    async def _connect(self, deadline: float) -> Link:
        """A new connection, in the place that was taken; it leads to the manager's database."""
        manager, link = self.manager, None
        try:
            if self._closed:
                raise ManagerDown(f"{manager.name} was closed")
            async with asyncio.timeout_at(deadline):
                link = await Link.connect(manager.name, self._conninfo)
            found = await find(link, manager.name, deadline)
            link.is_known = manager.database.recognise(found)
            return link
        except BaseException as e:
            if link is not None:
                link.close()
            self._places.release()
            if isinstance(e, psycopg.OperationalError | OSError):  # a TimeoutError is one
                text = line(e) if str(e) else "no connection in time"
                raise ManagerDown(f"{manager.name}: {text}") from e
            raise

    def give_back(self, link: Link) -> None:
        """A connection that no user had, and that is in no transaction."""
        self._places.release()
        if self._closed or not link.is_known:
            link.close()
        else:
            self._idle.append(link)

    def renew(self, link: Link) -> None:
        """A connection that a user had, and that is in no transaction: nothing of that stays."""
        try:
            link.begin_reset()
        except psycopg.Error:
            self.drop(link)
        else:
            self.give_back(link)

    def drop(self, link: Link) -> None:
        """Drop a connection of which nobody knows what it is in; the server rolls back."""
        if link.given_up:
            self._tasks.spawn(self._hang_up(link))
        else:
            link.close()
            self._places.release()

    async def _hang_up(self, link: Link) -> None:
        """Let the server stop what nobody waits for."""
        try:
            await link.cancel()
        except (psycopg.Error, OSError):
            pass  # it does not answer, and notices by itself
        finally:
            link.close()
            self._places.release()

    def _drop_idle(self) -> None:
        """One that was idle is dead: so are the others, as a rule."""
        idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    async def close(self) -> None:
        """Hang up; what transactions still use is dropped when they give it back."""
        self._closed = True
        await self._tasks.wait()
        self._drop_idle()


def _complete(conninfo: str) -> str:
    """With the settings that notice a dead server, where they are not given.

    Raises:
        UsageError: it is no connection string.
    """
    if not isinstance(conninfo, str):
        raise UsageError(f"a connection string is text, not {type(conninfo).__name__}")
    try:
        given = conninfo_of.conninfo_to_dict(conninfo)
        missing = {k: v for k, v in _NOTICES_DEATH.items() if k not in given}
        return conninfo_of.make_conninfo(conninfo, **missing)
    except (psycopg.ProgrammingError, UnicodeError) as e:
        raise UsageError(f"not a connection string of PostgreSQL: {line(e)}") from e
