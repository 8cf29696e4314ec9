"""A replicated key-value store: ordered, with times to live, compare-and-set, and listening.

    kv = await worm.replicate(KeyValue, "kv")
    await kv.put("colour", b"green")
    assert await kv.get("colour") == b"green"

Keys are strings, values bytes.  Every change has a *revision*: how many changes there were until
then. A key's time to live runs in the time that commands carry, so it ends at the same command
everywhere.
"""

from __future__ import annotations

import msgspec

from wormspace.smr.declare import StateMachine
from wormspace.smr.kinds import INT_MAX
from wormspace.smr.methods import command, query
from wormspace.smr.table import Table

SCAN_LIMIT = 1000


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a key holds.

    Attributes:
        revision: the change that put it there.
        expires_ns: when it goes, in nanoseconds since the epoch; 0 for never.
    """

    value: bytes
    revision: int
    expires_ns: int = 0


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a listener is told: the key's new value and its end, or None when it is gone.

    A key's last change is also its row: one object for both is less to make, and less to free.
    """

    key: str
    value: bytes | None
    revision: int
    expires_ns: int = 0


class KeyValue(StateMachine):
    """The store.  Its events are `Change`s."""

    event = Change
    _checks_first = True  # see `methods.is_trusted`

    entries: Table[str, Change]
    expiries: Table[tuple[int, str], None]
    revision: int = 0

    @command
    def put(self, key: str, value: bytes, ttl_s: float | None = None) -> int:
        """Set a key, for `ttl_s` seconds if given; returns the revision."""
        expires_ns = 0
        if ttl_s is not None:
            if not ttl_s > 0:
                raise ValueError("a time to live is positive")
            if ttl_s * 1e9 > INT_MAX - self._moment.time_ns:
                raise ValueError("a time to live ends within some five centuries")
            expires_ns = self._moment.time_ns + int(ttl_s * 1e9)
        if self.expiries:
            self._forget_expiry(key)
        if expires_ns:
            self.expiries[expires_ns, key] = None
        self.revision = revision = self.revision + 1
        self.entries[key] = change = Change(key, value, revision, expires_ns)
        self._events.append(change)  # `emit`, without the call
        return revision

    @command
    def delete(self, key: str) -> bool:
        """Remove a key; returns whether it was there."""
        if key not in self.entries:
            return False
        self._remove(key)
        return True

    @command
    def cas(
        self, key: str, expected: bytes | None, value: bytes | None, ttl_s: float | None = None
    ) -> bool:
        """Set a key to `value` if it holds `expected`; None stands for "is not there"."""
        entry = self.entries.get(key)
        if (None if entry is None else entry.value) != expected:
            return False
        if value is not None:
            self.put(key, value, ttl_s)
        elif entry is not None:
            self._remove(key)
        return True

    @query
    def get(self, key: str) -> bytes | None:
        """The value of a key, or None."""
        entry = self.entries.get(key)
        return None if entry is None else entry.value

    @query
    def entry(self, key: str) -> Entry | None:
        """The value of a key, with its revision and its end."""
        row = self.entries.get(key)
        return None if row is None else Entry(row.value or b"", row.revision, row.expires_ns)

    @query
    def scan(
        self, start: str = "", stop: str | None = None, limit: int = SCAN_LIMIT
    ) -> list[tuple[str, bytes]]:
        """Keys of [start, stop) in order, with values, at most `limit` of them.

        Ask for fewer if values are large; for the rest, go on at the last key and "\\0".

        Raises:
            ValueError: they are too many bytes for one answer.
        """
        found: list[tuple[str, bytes]] = []
        for key, row in self.entries.scan(start, stop):
            if len(found) >= limit:
                break
            found.append((key, row.value or b""))  # a row has a value
        return found

    @query
    def size(self) -> int:
        """How many keys there are."""
        return len(self.entries)

    # ------------------------------------------------------------ changes

    def due(self) -> float | None:
        first = next(iter(self.expiries), None)
        return None if first is None else first[0] / 1e9

    def on_due(self) -> None:
        now_ns = self._moment.time_ns
        while self.expiries:
            expires_ns, key = next(iter(self.expiries))
            if expires_ns > now_ns:
                return
            self._remove(key)

    def _remove(self, key: str) -> None:
        self._forget_expiry(key)
        self.revision += 1
        del self.entries[key]
        self.emit(Change(key, None, self.revision))

    def _forget_expiry(self, key: str) -> None:
        entry = self.entries.get(key)
        if entry is not None and entry.expires_ns:
            del self.expiries[entry.expires_ns, key]


def prefix_stop(prefix: str) -> str | None:
    """The bound below which the keys with this prefix lie; None if there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        following = ord(prefix[at]) + 1
        if following == 0xD800:
            following = 0xE000  # no lone surrogates
        if following <= 0x10FFFF:
            return prefix[:at] + chr(following)
    return None
