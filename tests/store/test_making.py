"""A store is made or it is not, wherever the process dies and the power fails meanwhile."""

from __future__ import annotations

from random import Random

import pytest

from wormspace.errors import StoreDamaged
from wormspace.server.storage import AcceptorStore
from wormspace.sim.disk import Disk, DiskOptions
from wormspace.sim.files import SimFiles
from wormspace.store import journal, roots

SEEDS = range(6)


class Directory:
    """A store's directory on a simulated disk, in which processes die and the power fails."""

    def __init__(self, seed):
        random = Random(seed)
        disk = Disk(None, random, DiskOptions(), print)  # nothing waits for a loop here
        self.files = disk.files = SimFiles(disk, random)

    def calls_until_made(self):
        """How many calls of the system it takes to make it."""
        made = 0

        def counted():
            nonlocal made
            made += 1

        self.files.call = counted
        self.open().close()
        del self.files.call
        return made

    def open(self):
        return AcceptorStore(self.files.path, files=self.files)

    def interrupted(self, calls):
        """A process opens it and dies in that call, and the power fails."""
        self.files.die_within(self.open, calls)
        self.files.kill()
        self.files.cut()


@pytest.fixture
def directory():
    """Make one for a seed; all are removed at the end."""
    made = []

    def make(seed):
        made.append(Directory(seed))
        return made[-1]

    yield make
    for one in made:
        one.files.remove()


def test_a_power_cut_while_a_store_is_made_leaves_one_that_opens(directory):
    calls = directory(0).calls_until_made()
    assert calls > 20
    for first in range(calls + 1):
        for seed in SEEDS:
            place = directory(seed)
            place.interrupted(first)
            place.interrupted(Random(f"{first} {seed}").randrange(calls))
            place.open().close()
            place.files.remove()


@pytest.mark.parametrize("content", [b"", bytes(40), bytes(40_000), b"something else"])
def test_roots_without_a_whole_slot_are_damage_whatever_the_journal_has(tmp_path, content):
    AcceptorStore(tmp_path).close()
    (tmp_path / roots.NAME).write_bytes(content)
    for name in journal.NAMES:
        (tmp_path / name).unlink()
    with pytest.raises(StoreDamaged, match="roots is damaged"):
        AcceptorStore(tmp_path)
