"""The log without asyncio."""

from __future__ import annotations

import wormspace.log.cursors as cursors
import wormspace.log.log as logs
from wormspace.sync.delegating import Attribute, Closing, Handle, making, streaming, waiting


class Cursor(Handle):
    """One consumer's place in one log; get it from `Log.cursor`."""

    name = Attribute[str]("The consumer's.")
    load = waiting(cursors.Cursor.load)
    commit = waiting(cursors.Cursor.commit)


class Log(Closing):
    """A shared, totally ordered log of entries; get it from `Worm.log`.

        position = log.append(b"four chairs")
        for entry in log.listen(position):
            ...

    Positions count from 0.  Each below the tail holds an entry or is a hole, for ever; holes are
    what crashed appenders leave, and readers pass over them.
    """

    name = Attribute[str]("The log's.")
    segment_size = Attribute[int]("Registers per segment; trimming frees whole segments.")
    close = waiting(logs.Log.close)
    stand_by = waiting(logs.Log.stand_by)
    append = waiting(logs.Log.append)
    append_many = waiting(logs.Log.append_many)
    read = waiting(logs.Log.read)
    read_range = waiting(logs.Log.read_range)
    tail = waiting(logs.Log.tail)
    first = waiting(logs.Log.first)
    fill = waiting(logs.Log.fill)
    listen = streaming(logs.Log.listen)
    read_stream = waiting(logs.Log.read_stream)
    streams = waiting(logs.Log.streams)
    cursor = making(logs.Log.cursor, Cursor)
    trim = waiting(logs.Log.trim)
    trim_older = waiting(logs.Log.trim_older)
    trim_larger = waiting(logs.Log.trim_larger)
    info = waiting(logs.Log.info)
