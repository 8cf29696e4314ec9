"""What is opened is closed: by `await it.close()`, or at the end of an `async with it` block."""

from __future__ import annotations

from typing import Self


class Closing:
    """Something that is open from the start, until `close`."""

    async def close(self) -> None:
        """Let go of all that it holds; harmless when repeated."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
