"""Ready-made replicated types: counter, dictionary, set, queue, lock with fencing token, election.

    jobs = await worm.replicate(Queue, "jobs")
    await jobs.put(b"resize 17.png")

Values are bytes and names are strings; whoever wants more structure writes a `StateMachine`.
"""

from __future__ import annotations

import math

import msgspec

from wormspace.smr.declare import StateMachine
from wormspace.smr.methods import command, query
from wormspace.smr.table import Table

LONGEST_TOKEN = 128
"""Characters of a token that a caller chooses: it is part of a lease's name, which batches say."""


class Counter(StateMachine):
    """A number."""

    value: int = 0

    @command
    def add(self, amount: int = 1) -> int:
        """Add to the number; returns the sum."""
        self.value += amount
        return self.value

    @command
    def set_to(self, value: int) -> int:
        """Set the number; returns what it was before."""
        before, self.value = self.value, value
        return before

    @query
    def read(self) -> int:
        """The number."""
        return self.value


class Dict(StateMachine):
    """Names to values, in order."""

    items_: Table[str, bytes]

    @command
    def set(self, key: str, value: bytes) -> bytes | None:
        """Set a value; returns what was there before."""
        before: bytes | None = self.items_.get(key)
        self.items_[key] = value
        return before

    @command
    def set_default(self, key: str, value: bytes) -> bytes:
        """Set a value unless one is there; returns the one that is there now."""
        held: bytes = self.items_.setdefault(key, value)
        return held

    @command
    def pop(self, key: str) -> bytes | None:
        """Remove a value, and return it."""
        return self.items_.pop(key, None)

    @query
    def get(self, key: str) -> bytes | None:
        """The value, or None."""
        found: bytes | None = self.items_.get(key)
        return found

    @query
    def items(self) -> list[tuple[str, bytes]]:
        """Everything, in order of names."""
        return list(self.items_.items())

    @query
    def size(self) -> int:
        """How many there are."""
        return len(self.items_)


class Set(StateMachine):
    """Names."""

    members_: Table[str, None]

    @command
    def add(self, member: str) -> bool:
        """Add a member; returns whether it is new."""
        if member in self.members_:
            return False
        self.members_[member] = None
        return True

    @command
    def discard(self, member: str) -> bool:
        """Remove a member; returns whether it was there."""
        if member not in self.members_:
            return False
        del self.members_[member]
        return True

    @query
    def contains(self, member: str) -> bool:
        """Whether it is there."""
        return member in self.members_

    @query
    def members(self) -> list[str]:
        """All, in order."""
        return list(self.members_)


class Job(msgspec.Struct, frozen=True, array_like=True):
    """An item of a queue that somebody has, for the time of a lease.

    Attributes:
        number: its place in the queue.
        token: by which it is renewed, finished or given back.
        lease: counts the leases of the queue: every renewal begins another.
    """

    number: int
    item: bytes
    token: str
    lease_s: float
    lease: int


class Queue(StateMachine):
    """First in, first out; each item is done at least once.

    Whoever takes an item has it for a lease, and says when it is finished.  If that does not
    come in time, the item is back at its old place.  `taking` does all of this.
    """

    items_: Table[int, bytes]
    taken_: Table[str, Job]
    following: int = 0
    leases_begun: int = 0

    @command
    def put(self, item: bytes) -> int:
        """Add at the end; returns the item's number, which never comes again."""
        number = self.following
        self.items_[number] = item
        self.following += 1
        return number

    @command
    def take(self, lease_s: float = 30.0, token: str = "") -> Job | None:
        """Have the oldest that nobody has, until it is finished or the lease ends.

        None if there is none.  `token` names this taking, unlike any other; by default, dice choose
        it.  With the token of a job that one has, it is the same job, and its lease begins anew.
        """
        _check_lease(lease_s, token)
        if token in self.taken_:
            return self._lend(self.taken_[token], lease_s)
        number = next(iter(self.items_), None)
        if number is None:
            return None
        item = self.items_.pop(number)
        return self._lend(Job(number, item, token or new_token(self), lease_s, 0), lease_s)

    @command
    def renew(self, token: str, lease_s: float = 30.0) -> Job | None:
        """Let the lease of a job begin anew; None if one does not have it any more."""
        _check_lease(lease_s)
        job = self.taken_.get(token)
        return None if job is None else self._lend(job, lease_s)

    @command
    def finish(self, token: str) -> bool:
        """Remove an item for good; returns whether one still had it."""
        return self.taken_.pop(token, None) is not None

    @command
    def give_back(self, token: str) -> bool:
        """Put an item back at its place; returns whether one still had it."""
        job = self.taken_.pop(token, None)
        if job is None:
            return False
        self.items_[job.number] = job.item
        return True

    @query
    def peek(self) -> bytes | None:
        """The oldest that nobody has, without taking it."""
        number = next(iter(self.items_), None)
        return None if number is None else self.items_[number]

    @query
    def size(self) -> int:
        """How many are not finished."""
        return len(self.items_) + len(self.taken_)

    def leases(self) -> dict[str, float]:
        return {f"{job.token}/{job.lease}": job.lease_s for job in self.taken_.values()}

    def on_lapse(self, lease: str) -> None:
        token = lease.rpartition("/")[0]
        job = self.taken_.pop(token)
        self.items_[job.number] = job.item

    def _lend(self, job: Job, lease_s: float) -> Job:
        self.leases_begun += 1
        lent = Job(job.number, job.item, job.token, lease_s, self.leases_begun)
        self.taken_[job.token] = lent
        return lent


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """Somebody has it, until it is released or a lease ends.

    Attributes:
        owner: who, for people; several may have the same name.
        fence: grows with every acquisition: pass it along with every effect, and let whatever is
            protected refuse a smaller one than it has seen.  A lease alone is not safe: its
            holder may be asleep when it ends.
        lease_s: in seconds, from the last time that it was asked for.
        token: names the acquisition; by it, it is renewed and released.
    """

    owner: str
    fence: int
    lease_s: float
    token: str


class Lock(StateMachine):
    """One holder at a time, for the time of a lease, with a fencing token.

    Its events are the new `Grant`s, and None when it becomes free.
    """

    event = Grant | None

    grant: Grant | None = None
    fence: int = 0
    leases_begun: int = 0

    @command
    def acquire(self, owner: str, lease_s: float, token: str = "") -> Grant | None:
        """Take it; None while it is taken, were it by the same owner.

        `token` names this acquisition, unlike any other; by default, dice choose it.  With the
        token of the present grant, it is the same grant, and its lease begins anew.
        """
        _check_lease(lease_s, token)
        if self.grant is not None:
            return self.renew(token, lease_s) if token else None
        self.fence += 1
        self.leases_begun += 1
        self.grant = Grant(owner, self.fence, lease_s, token or new_token(self))
        self.emit(self.grant)
        return self.grant

    @command
    def renew(self, token: str, lease_s: float) -> Grant | None:
        """Let the lease begin anew; None if one does not have it any more."""
        _check_lease(lease_s)
        if self.grant is None or self.grant.token != token:
            return None
        self.leases_begun += 1
        self.grant = Grant(self.grant.owner, self.grant.fence, lease_s, token)
        return self.grant

    @command
    def release(self, token: str) -> bool:
        """Give the lock back; returns whether one had it."""
        if self.grant is None or self.grant.token != token:
            return False
        self._free()
        return True

    @query
    def holder(self) -> Grant | None:
        """Who has it."""
        return self.grant

    def leases(self) -> dict[str, float]:
        return {} if self.grant is None else {str(self.leases_begun): self.grant.lease_s}

    def on_lapse(self, lease: str) -> None:
        self._free()

    def _free(self) -> None:
        self.grant = None
        self.emit(None)


class Election(Lock):
    """Who leads: a lock whose holder is the leader and whose fencing token is the term."""


def new_token(machine: StateMachine) -> str:
    """A name that comes with the command."""
    return f"{machine.random.getrandbits(64):016x}"


def _check_lease(lease_s: float, token: str = "") -> None:
    if not 0 < lease_s < math.inf:
        raise ValueError(f"a lease is a positive number of seconds, not {lease_s}")
    if len(token) > LONGEST_TOKEN:
        raise ValueError(f"a token has {LONGEST_TOKEN} characters at most, not {len(token)}")
