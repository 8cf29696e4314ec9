"""An embedded client in virtual time: nothing waits, and nothing depends on the machine's speed."""

from __future__ import annotations

import wormspace
from wormspace.sim import World

MOST_STEPS = 100_000
"""Turns of the loop: what takes more goes round in circles."""

CALLS = ("capture", "write", "read_one", "read", "holds", "trim", "trims")


def virtually(work, seed=0):
    """What `work(worm)` returns, of a client that has its registers for itself."""
    with World(seed, max_steps=MOST_STEPS) as world:

        async def main():
            async with wormspace.connect("memory:") as worm:
                return await work(worm)

        return world.run(main(), deadline_s=10_000)


class Watch:
    """Notes the calls that a client makes to its registers, and can let something happen first.

    Attributes:
        calls: of each, its name and arguments, since the last `clear`.
        before: called with both before each call; what it raises, the call raises.
    """

    def __init__(self, worm):
        self.calls = []
        self.before = None
        for name in CALLS:
            setattr(worm.registers, name, self._watched(name, getattr(worm.registers, name)))

    def _watched(self, name, call):
        def noting(*given, **named):
            self.calls.append((name, given))
            if self.before is not None:
                self.before(name, given)
            return call(*given, **named)

        return noting

    def clear(self):
        """Forget the calls so far; returns how many there were of each kind."""
        counts = self.counts()
        self.calls.clear()
        return counts

    def counts(self):
        """How many calls of each kind there were."""
        names = [name for name, _ in self.calls]
        return {name: names.count(name) for name in sorted(set(names))}
