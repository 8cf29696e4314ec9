"""An old log that looks like a new one, so that what is true of new ones can be tested on it.

It has been through a long life with every size as small as can be (`Life`), and all of that was
trimmed.  Positions and slots are counted from there.
"""

from __future__ import annotations

import contextlib

import msgspec

from wormspace.knobs import least
from wormspace.log import LogTrimmed

SHIPPED = {"log_ask_entries", "log_batch_bytes", "log_batch_entries"}
"""What the suites say of batches is true of shipped sizes."""

KNOBS_OF_AGE = {
    name: value
    for name, value in least().items()
    if name.startswith("log_") and name not in SHIPPED
}

SIZES = (4, 16, 512)
TURNS = 500


def name_of(size):
    return f"old-{size}"


class Aged:
    """A handle of it.

    Attributes:
        base: the position that is called 0.
    """

    def __init__(self, log, base, slot):
        self.__dict__.update(_log=log, base=base, _slot=slot)

    def __getattr__(self, name):
        return getattr(self._log, name)

    def __setattr__(self, name, value):
        setattr(self._log, name, value)

    @property
    def _segmented_log(self):
        return _AgedTape(self._log._segmented_log, self._slot)

    @contextlib.contextmanager
    def _counting(self):
        try:
            yield
        except LogTrimmed as e:
            raise LogTrimmed(str(e), e.first - self.base) from e

    def _young(self, entry):
        return entry and msgspec.structs.replace(entry, position=entry.position - self.base)

    async def append(self, *args, **options):
        return await self._log.append(*args, **options) - self.base

    async def append_many(self, *args, **options):
        return [at - self.base for at in await self._log.append_many(*args, **options)]

    async def read(self, position):
        with self._counting():
            return self._young(await self._log.read(position + self.base if position >= 0 else -1))

    async def fill(self, position):
        with self._counting():
            return self._young(await self._log.fill(position + self.base))

    async def read_range(self, start, stop=None):
        with self._counting():
            until = None if stop is None else stop + self.base
            return [self._young(e) for e in await self._log.read_range(start + self.base, until)]

    async def read_stream(self, name, start=None):
        with self._counting():
            since = None if start is None else start + self.base
            return [self._young(e) for e in await self._log.read_stream(name, since)]

    async def streams(self):
        found = await self._log.streams()
        return {name: at - self.base for name, at in found.items() if at >= self.base}

    async def tail(self):
        return await self._log.tail() - self.base

    async def first(self):
        return await self._log.first() - self.base

    async def trim(self, position):
        return await self._log.trim(position + self.base) - self.base

    async def trim_older(self, seconds):
        return await self._log.trim_older(seconds) - self.base

    async def trim_larger(self, size):
        return await self._log.trim_larger(size) - self.base

    async def listen(self, start=None, *, stream=None):
        since = None if start is None else start + self.base
        with self._counting():
            async for entry in self._log.listen(since, stream=stream):
                yield self._young(entry)


class _AgedTape:
    def __init__(self, segmented_log, slot):
        self._segmented_log = segmented_log
        self._slot = slot

    async def end(self):
        return await self._segmented_log.end() - self._slot

    async def fill(self, start, stop):
        await self._segmented_log.fill(start + self._slot, stop + self._slot)

    async def read(self, start, stop):
        return await self._segmented_log.read(start + self._slot, stop + self._slot)
