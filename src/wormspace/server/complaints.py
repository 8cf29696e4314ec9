"""What clients do wrong, in the log: the first of a kind at once, the others as a number.

A client may be refused, or send what is no message, as often as it likes; the log grows by a line
of each kind in an interval.
"""

from __future__ import annotations

import asyncio
import logging

log = logging.getLogger("wormspace.server")

INTERVAL_S = 10.0

Kind = tuple[str, str]
"""(event, code)."""


class Complaints:
    """Counts by kind; there are as many kinds as the server has reasons."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._untold: dict[Kind, int] = {}
        self._last: dict[Kind, dict[str, str]] = {}
        self._timers: dict[Kind, asyncio.TimerHandle] = {}

    def tell(self, event: str, code: str, said: dict[str, str]) -> None:
        """One more of a kind, with what is to be said of it."""
        kind = event, code
        if kind in self._timers:
            self._untold[kind] = self._untold.get(kind, 0) + 1
            self._last[kind] = said
        else:
            log.warning(event, extra={"code": code, **said})
            self._wait(kind)

    def _wait(self, kind: Kind) -> None:
        self._timers[kind] = self._loop.call_later(INTERVAL_S, self._on_interval, kind)

    def _on_interval(self, kind: Kind) -> None:
        del self._timers[kind]
        if self._sum_up(kind):
            self._wait(kind)

    def _sum_up(self, kind: Kind) -> bool:
        """Say how many there were that nothing was said of; false if there were none."""
        count = self._untold.pop(kind, 0)
        if count:
            event, code = kind
            log.warning(event, extra={"code": code, "times": count, **self._last.pop(kind)})
        return count > 0

    def close(self) -> None:
        """Say what is still to be said."""
        for kind, timer in self._timers.items():
            timer.cancel()
            self._sum_up(kind)
        self._timers.clear()
