"""A ledger kept exactly once: the position is stored in the same transaction as what was done.

    python examples/ledger.py [URL]

Payments are entries of a log; a bookkeeper adds them up in a SQLite database of its own.  It dies
again and again, before and after its commits.  Because the balance and the next position change in
one transaction, it always resumes where the balance stands, and needs no cursor in the log.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import tempfile
from pathlib import Path

import wormspace
from wormspace.log import Log


class Died(Exception):
    """What stands for a crash of the bookkeeper."""


def open_books(path: Path) -> sqlite3.Connection:
    """The bookkeeper's database, and in it, where it goes on."""
    books = sqlite3.connect(path)
    with books:
        books.execute("CREATE TABLE IF NOT EXISTS balance (who TEXT PRIMARY KEY, amount INTEGER)")
        books.execute("CREATE TABLE IF NOT EXISTS progress (one PRIMARY KEY, next INTEGER)")
        books.execute("INSERT OR IGNORE INTO progress VALUES (1, 0)")
    return books


async def keep(books: sqlite3.Connection, payments: Log, until: int, dice: random.Random) -> None:
    """Enter payments up to a position, unless it dies over one of them."""
    (start,) = books.execute("SELECT next FROM progress").fetchone()
    if start >= until:
        return
    async for entry in payments.listen(start):
        who, amount = entry.body.decode().split()
        with books:  # one transaction: both, or neither
            books.execute(
                "INSERT INTO balance VALUES (?1, ?2) "
                "ON CONFLICT (who) DO UPDATE SET amount = amount + ?2",
                (who, int(amount)),
            )
            if dice.random() < 0.05:
                raise Died
            books.execute("UPDATE progress SET next = ?", (entry.position + 1,))
        if dice.random() < 0.05:
            raise Died
        if entry.position + 1 >= until:
            return


async def main(url: str) -> None:
    """A thousand payments, and a bookkeeper of poor health."""
    dice = random.Random(7)
    deaths = 0
    async with wormspace.connect(url) as worm:
        payments = await worm.log("payments")
        paid = dict.fromkeys(("ann", "bob", "cy"), 0)
        bodies = []
        for _ in range(1000):
            who, amount = dice.choice(list(paid)), dice.randint(1, 100)
            paid[who] += amount
            bodies.append(f"{who} {amount}".encode())
        positions = await payments.append_many(bodies)
        with tempfile.TemporaryDirectory() as directory:
            while True:
                books = open_books(Path(directory) / "books")
                try:
                    await keep(books, payments, positions[-1] + 1, dice)
                    break
                except Died:
                    deaths += 1
                    books.close()
            balance = dict(books.execute("SELECT who, amount FROM balance"))
            books.close()
    print(f"the bookkeeper died {deaths} times")
    print("every payment was entered once" if balance == paid else f"{balance} is not {paid}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "memory:"))
