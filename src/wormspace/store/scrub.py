"""The scrub: all rows are read again and again, a few at a time, so that rot is found early.

Rows that nobody reads would otherwise rot unseen until the other copies have rotted too.  A row
that is not what was written is counted, and told of once.  Each row must be found by its key.  When
a table has been walked to its end, the sum of the rows' checksums must be that of all rows that
were ever put there: if not, rows are missing or old ones came back, nobody knows which, and the
store fails, since "nothing is here" cannot be believed any more.

A damaged row may have its checksum damaged.  So in a walk that finds one the sum proves nothing;
what it is then counts from there on, and the next walk finds what goes missing later.
"""

from __future__ import annotations

import logging

from wormspace.errors import StoreDamaged
from wormspace.knobs import KNOBS
from wormspace.store.lmdb_tables import Tables
from wormspace.store.trust import ADVICE

STEP_BYTES = 1 << 20
"""A step ends with the row that brings it to this size."""

MOST_NAMED = 1000
"""Damaged rows that are named in the log, and kept: of a disk that is gone nobody reads more."""

log = logging.getLogger("wormspace.store")


class Scrub:
    """Walks the tables.

    Attributes:
        rounds: how often all tables were walked to their end.
        rows: how many rows were verified.
        damaged: the damaged rows that were found, as (table, key), up to `MOST_NAMED`.
    """

    def __init__(self, tables: Tables, names: tuple[str, ...]) -> None:
        self._tables = tables
        self._names = names
        self._at = 0
        self._is_new = False  # whether this walk found a damaged row that was not known
        self.rounds = 0
        self.rows = 0
        self.damaged: set[tuple[str, bytes]] = set()

    def step(self) -> None:
        """Verify some rows.

        Raises:
            StoreDamaged: rows are missing, or older ones came back.
        """
        table = self._names[self._at]
        held = self._tables.sums[table]
        if held.place is None:
            held.place, held.passed = b"", 0
        rows = self._tables.stored(table, held.place, KNOBS.store_scrub_rows, STEP_BYTES)
        for key, stored in rows:
            self.rows += 1
            value, end = self._tables.checked(table, key, stored)
            held.pass_row(key, end)
            if value is None:
                self._tell(table, key)
        if not rows:
            self._on_end(table)

    def _tell(self, table: str, key: bytes) -> None:
        self._is_new |= (table, key) not in self.damaged
        if (table, key) not in self.damaged and len(self.damaged) < MOST_NAMED:
            self.damaged.add((table, key))
            log.critical("damaged row: table %r, key %s. %s", table, key.hex(), ADVICE)

    def _on_end(self, table: str) -> None:
        held = self._tables.sums[table]
        passed, held.place = held.passed, None
        self._at = (self._at + 1) % len(self._names)
        self.rounds += self._at == 0
        found, self._is_new = self._is_new, False
        if found:
            held.total = passed
        elif passed != held.total:
            raise StoreDamaged(
                f"table {table!r}: rows are missing, or are older than the last ones written. "
                f"{ADVICE}"
            )
