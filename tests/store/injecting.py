"""A system in which one call fails, whichever and however the test wants."""

from __future__ import annotations

import asyncio
import errno
import os

import lmdb

from wormspace.runtime.disk import Disk
from wormspace.store.files import Files, SystemFiles

CALLS = sorted(name for name in {**vars(Files), **vars(Disk)} if not name.startswith("_"))
"""Every call of the system that the store can make, by name."""

LMDB_CALLS = ("tables.begin", "tables.commit", "tables.sync", "tables.set_mapsize", "tables.put")
"""What LMDB does for it, in one call or several."""


class Injected(SystemFiles):
    """The system; call number `at` fails in the way given.

    Nothing waits for the disk: no power is cut here.

    Attributes:
        seen: the names of the calls that were made, in order.
    """

    def __init__(self, at=-1, how=errno.EIO):
        self.at = at
        self.how = how
        self.seen = []

    def __getattribute__(self, name):
        if name not in CALLS:
            return super().__getattribute__(name)
        return lambda *args, **more: self._call(name, *args, **more)

    def _call(self, name, *args, **more):
        real = getattr(super(), name)
        if name in ("sync", "sync_data"):
            real = lambda fd: None  # noqa: E731
        if name == "write" and len(args) > 3:
            args = (*args[:3], 0)  # without DSYNC
        if self.step(name):
            if name == "close":  # the descriptor is gone, whatever close(2) says
                return real(*args)
            if self.how == "short":
                return self._short(name, *args)
            if self.how == "late":  # it was done, and failed all the same
                real(*args, **more)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            raise OSError(self.how, os.strerror(self.how))
        done = real(*args, **more)
        if name == "open_tables":
            return Tables(done, self)
        return Soon() if name == "worker" else done

    def step(self, name):
        """Whether this call is the one that fails."""
        self.seen.append(name)
        return len(self.seen) - 1 == self.at

    def _short(self, name, *args):
        """A write, or a read, of less than was asked for."""
        if name == "write":
            fd, parts, at, _ = (*args, 0)[:4]
            if len(parts) == 1 and isinstance(parts[0], memoryview):  # O_DIRECT: whole blocks
                blocks = len(parts[0]) // 4096
                return os.pwritev(fd, [parts[0][: 4096 * max(1, blocks // 2)]], at)
            whole = b"".join(parts)
            return os.pwrite(fd, whole[: max(1, len(whole) // 2)], at)
        if name == "read":
            fd, size, at = args
            return os.pread(fd, max(1, size // 2), at)
        return getattr(super(), name)(*args)


def applies(how, name):
    """Whether a call can fail so."""
    if how == "short":
        return name in ("write", "read")
    if how == "late":
        return name in ("write", "sync", "sync_data", "truncate", "reserve", "rename")
    if how == errno.ENOSPC:
        return name in (
            "write",
            "sync",
            "sync_data",
            "reserve",
            "tables.commit",
            "make_directory",
            "rename",
        )
    if how == errno.EMFILE:
        return name in ("open", "open_tables")
    if how == errno.ENOMEM:
        return name not in ("now", "random")
    return name not in ("now", "random", "kind")


class Tables:
    """LMDB's environment."""

    def __init__(self, env, system):
        self._env = env
        self._system = system

    def _fails(self, name):
        if not self._system.step(f"tables.{name}"):
            return None
        how = self._system.how
        number = how if isinstance(how, int) else errno.EIO
        return lmdb.Error(f"mdb_{name}: {os.strerror(number)}")

    def begin(self, **how):
        if error := self._fails("begin"):
            raise error
        return Transaction(self._env.begin(**how), self)

    def sync(self, force):
        if error := self._fails("sync"):
            raise error

    def set_mapsize(self, size):
        if error := self._fails("set_mapsize"):
            raise error
        self._env.set_mapsize(size)

    def __getattr__(self, name):
        return getattr(self._env, name)


class Transaction:
    """One of LMDB's."""

    def __init__(self, txn, tables):
        self._txn = txn
        self._tables = tables

    def commit(self):
        if error := self._tables._fails("commit"):
            self._txn.abort()
            raise error
        self._txn.commit()

    def cursor(self, db):
        return Cursor(self._txn.cursor(db=db), self._tables)

    def __getattr__(self, name):
        return getattr(self._txn, name)


class Cursor:
    """One of LMDB's."""

    def __init__(self, cursor, tables):
        self._cursor = cursor
        self._tables = tables

    def __enter__(self):
        self._cursor.__enter__()
        return self

    def __exit__(self, *error):
        self._cursor.__exit__(*error)

    def putmulti(self, items):
        if error := self._tables._fails("put"):
            raise error
        return self._cursor.putmulti(items)

    def replace(self, key, value):
        if error := self._tables._fails("put"):
            raise error
        return self._cursor.replace(key, value)

    def __getattr__(self, name):
        return getattr(self._cursor, name)


class Soon:
    """A worker that works in the next turn of the loop."""

    async def run(self, work):
        await asyncio.sleep(0)
        work()

    def stop(self):
        """Nothing is under way."""
