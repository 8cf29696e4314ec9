"""WormLog: a shared log over the address space.

    async with wormspace.connect("worm://h1:p1,h2:p2,h3:p3") as worm:
        log = await worm.log("orders")
        position = await log.append(b"four chairs", headers={"by": "ann"})
        async for entry in log.listen(position):
            print(entry.position, entry.body)

Nothing here sends a message to a server: the log stands on the address space alone.  docs/log.md
tells how.
"""

from wormspace.log.cursors import Cursor
from wormspace.log.errors import DamagedEntry, LogTrimmed, NoSequencer, NotWritten
from wormspace.log.info import Info
from wormspace.log.log import Log, SequencerChoice
from wormspace.log.records import Entry

__all__ = [
    "Cursor",
    "DamagedEntry",
    "Entry",
    "Info",
    "Log",
    "LogTrimmed",
    "NoSequencer",
    "NotWritten",
    "SequencerChoice",
]
