"""When a lease ends: after its whole length by somebody's stopwatch, and when the log says so.

No wall clock is believed.  Each replica starts a stopwatch when it sees a lease begin, in its copy
of the state, and that is later than the command that began it was sent.  A replica that proposes,
and whose stopwatch has run for the whole length while the lease was not renewed, says in its next
batch that the lease has lapsed; it ends there, at the same register on every replica.

So a lease never ends before its length has passed since its holder asked for it: however wrong wall
clocks are, and whoever leads.  What is assumed is that two machines' stopwatches (monotonic clocks)
differ by less than a hundredth; holders stop that much earlier (`holding.SURE`).  A lease may end
late: by as long as nobody proposes, and a replica that was restarted counts from its start.
"""

from __future__ import annotations

from collections.abc import Mapping

LOOK_S = 0.1
"""How often a replica looks at which leases run."""

IDLE_LOOK_S = 1.0
"""The same where the state machine has none."""


class Stopwatches:
    """One for each lease that runs; `look` starts and stops them."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def look(self, now: float, running: Mapping[str, float]) -> list[str]:
        """The leases that have run for their length, in seconds, by these stopwatches.

        Args:
            now: of a clock that never jumps.
            running: the leases that run now, and the length of each.
        """
        since = self._since
        self._since = {name: since.get(name, now) for name in running}
        return [name for name, began in self._since.items() if now - began >= running[name]]
