"""The steps of a small world: what actors do, and what acceptors do for them; see `search`."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from explorer.columns import NOBODY, Acceptors, Batch, Columns, Interned, Request

ACCEPTORS = 3

Replies: TypeAlias = tuple[Any, Any, Any]
"""One reply of each acceptor, or None."""

Trio: TypeAlias = tuple[int, int, int]
State: TypeAlias = tuple[int, ...]
"""Three columns, ascending; the network; what is decided, as a mask; one entry per actor."""

NETWORK, CHOSEN, FIRST = 3, 4, 5
SILENCE: Replies = (None, None, None)
SOME = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))


@dataclass(frozen=True)
class Move:
    """One step of an actor: what it is for people, its state after it, and what it sends to all.

    sends: (operation, message); the operation is None if nobody waits for replies.
    ends: whether it stops listening for replies to the operation it waited for.
    claims: what must be decided now.  facts: what is so from now on.
    problem: why it should not have been possible.
    """

    label: str
    after: Hashable
    sends: tuple[tuple[Hashable | None, Any], ...] = ()
    ends: bool = True
    claims: frozenset[Any] = frozenset()
    facts: frozenset[Any] = frozenset()
    problem: str = ""


class Actor(Protocol):
    """A proposer, a reader, ...: a pure function from its state and the replies to its moves."""

    def initial(self) -> Hashable:
        """The state it begins in."""

    def listens(self, state: Any) -> Hashable | None:
        """The operation whose replies it waits for."""

    def moves(self, state: Any, replies: Replies, chosen: frozenset[Any]) -> list[Move]:
        """What it may do with some or all of the replies: with more of them, more."""

    def sees_chosen(self, state: Any) -> bool:
        """Whether its moves depend on `chosen`: on what is decided in the whole world."""


class SmallWorld(Acceptors, Protocol):
    """What is explored."""

    actors: list[Actor]

    def conflict(self, chosen: frozenset[Any]) -> str:
        """Why these cannot all be decided; empty if they can."""

    def refute(self, claims: frozenset[Any]) -> str:
        """That these claims, of which none is true, are false."""


class Way(NamedTuple):
    """A move, interned."""

    move: Move
    after: int
    sends: tuple[Request, ...]
    claims: int
    facts: int


Moved: TypeAlias = tuple[tuple[int, Batch], ...]
"""What acceptors do before an actor's step: position and batch."""

Step: TypeAlias = tuple[int, State, str, int, Way, Moved]
"""Its cost, the state after it, what is wrong with it; who moves, and how; what acceptors do."""


class Explorer:
    """The steps of a world, computed once each."""

    def __init__(self, world: SmallWorld) -> None:
        self.world = world
        self.acceptors = Columns(world)
        self.states: Interned[Hashable] = Interned()
        self.facts: Interned[Hashable] = Interned()
        self._ways: dict[tuple[int, int, Replies, int], list[Way]] = {}
        self._listens: dict[tuple[int, int], tuple[int, bool]] = {}
        self._begins: dict[tuple[Trio, int, int], list[tuple[Trio, int, Moved]]] = {}
        self._networks: dict[tuple[int, tuple[Request, ...], int], int] = {}
        self._voted: dict[tuple[int, int, int, int], int] = {}
        self._decided: dict[int, int] = {0: 0}
        self._harmless: set[tuple[int, tuple[tuple[int, ...], ...]]] = set()

    def initial(self) -> State:
        """The state at the start."""
        acceptors = self.acceptors
        actors = (self.states(actor.initial()) for actor in self.world.actors)
        network = acceptors.networks(frozenset())
        return (*(acceptors.initial(),) * ACCEPTORS, network, 0, *actors)

    # ------------------------------------------------------------ actors

    def actors(self, state: State) -> tuple[Any, ...]:
        """The actors' own states."""
        return tuple(self.states.values[own] for own in state[FIRST:])

    def ways(self, which: int, own: int, replies: Replies, chosen: int) -> list[Way]:
        """An actor's moves that take all of these replies (interned), and no fewer."""
        key = (which, own, replies, chosen)
        found = self._ways.get(key)
        if found is None:
            values = self.acceptors.replies.values
            given = [None if reply is None else values[reply] for reply in replies]
            state, truths = self.states.values[own], self.truths(chosen)
            moves = self.world.actors[which].moves
            options = dict.fromkeys(moves(state, (given[0], given[1], given[2]), truths))
            for i, reply in enumerate(given):
                if reply is not None:
                    fewer = [*given]
                    fewer[i] = None
                    for move in moves(state, (fewer[0], fewer[1], fewer[2]), truths):
                        options.pop(move, None)
            found = self._ways[key] = [self._way(move) for move in options]
        return found

    def _way(self, move: Move) -> Way:
        acceptors = self.acceptors
        sends = tuple(
            Request(NOBODY if of is None else acceptors.operations(of), acceptors.messages(message))
            for of, message in move.sends
        )
        claims, facts = self.mask(move.claims), self.mask(move.facts)
        return Way(move, self.states(move.after), sends, claims, facts)

    def mask(self, facts: frozenset[Any]) -> int:
        """Facts as a mask."""
        mask = 0
        for fact in sorted(facts):
            mask |= 1 << self.facts(fact)
        return mask

    def truths(self, mask: int) -> frozenset[Any]:
        """The facts of a mask."""
        return frozenset(fact for i, fact in enumerate(self.facts.values) if mask >> i & 1)

    def listens(self, which: int, own: int) -> tuple[int, bool]:
        """The operation that an actor waits for, if any; whether it sees what is decided."""
        key = (which, own)
        found = self._listens.get(key)
        if found is None:
            actor, state = self.world.actors[which], self.states.values[own]
            operation = actor.listens(state)
            number = NOBODY if operation is None else self.acceptors.operations(operation)
            found = self._listens[key] = (number, actor.sees_chosen(state))
        return found

    # ------------------------------------------------------------ steps

    def successors(self, state: State) -> Iterator[Step]:
        """All steps of actors, with what acceptors do for them."""
        columns, network, chosen = (state[0], state[1], state[2]), state[NETWORK], state[CHOSEN]
        for which in range(len(self.world.actors)):
            own = state[FIRST + which]
            operation, sees_chosen = self.listens(which, own)
            if sees_chosen:
                for trio, known, moved in self.begins(columns, network, chosen):
                    for way in self.ways(which, own, SILENCE, known):
                        cost = 1 + sum(batch.cost for _, batch in moved)
                        sent = self.sent(trio, network, operation, way)
                        yield self._step(state, which, way, *sent, known, cost, moved)
                continue
            for way in self.ways(which, own, SILENCE, 0):
                sent = self.sent(columns, network, operation, way)
                yield self._step(state, which, way, *sent, chosen, 1, ())
            if operation != NOBODY:
                yield from self._answered(state, which, own, operation)

    def _answered(self, state: State, which: int, own: int, operation: int) -> Iterator[Step]:
        """The steps of an actor that take in replies."""
        columns, network, chosen = (state[0], state[1], state[2]), state[NETWORK], state[CHOSEN]
        batches = self.acceptors.batches
        ends = [batches(column, network, operation, True) for column in columns]
        for some in SOME:
            if any(i and columns[i] == columns[i - 1] and i - 1 not in some for i in some):
                continue
            for combination in itertools.product(*(ends[i] for i in some)):
                replies: list[Any] = [None, None, None]
                for i, reply in zip(some, combination, strict=True):
                    replies[i] = reply
                for way in self.ways(which, own, (replies[0], replies[1], replies[2]), 0):
                    over = way.move.ends
                    options = [
                        batches(columns[i], network, operation, over)[replies[i]] for i in some
                    ]
                    others, following = self.sent(columns, network, operation, way)
                    for choice in itertools.product(*options):
                        moved = tuple(zip(some, choice, strict=True))
                        trio = [*others]
                        cost = 1
                        for i, batch in moved:
                            trio[i] = batch.column
                            cost += batch.cost
                        now = (trio[0], trio[1], trio[2])
                        yield self._step(state, which, way, now, following, chosen, cost, moved)

    def _step(
        self,
        state: State,
        which: int,
        way: Way,
        columns: Trio,
        network: int,
        chosen: int,
        cost: int,
        moved: Moved,
    ) -> Step:
        columns, network, chosen = self.settled(columns, network, chosen | way.facts)
        at = FIRST + which
        a, b, c = sorted(columns)
        after = (a, b, c, network, chosen, *state[FIRST:at], way.after, *state[at + 1 :])
        problem = way.move.problem
        if way.claims & ~chosen:
            problem = self.world.refute(self.truths(way.claims & ~chosen))
        return cost, after, problem, which, way, moved

    def sent(self, columns: Trio, network: int, operation: int, way: Way) -> tuple[Trio, int]:
        """Columns and network after a move."""
        over = operation if way.move.ends else NOBODY
        if over != NOBODY:
            without = self.acceptors.without
            a, b, c = columns
            columns = (without(a, over), without(b, over), without(c, over))
        if over == NOBODY and not way.sends:
            return columns, network
        key = (network, way.sends, over)
        found = self._networks.get(key)
        if found is None:
            networks = self.acceptors.networks
            requests = {
                Request(NOBODY, request.message) if request.operation == over else request
                for request in networks.values[network]
            }
            found = self._networks[key] = networks(frozenset(requests | {*way.sends}))
        return columns, found

    def begins(self, columns: Trio, network: int, chosen: int) -> list[tuple[Trio, int, Moved]]:
        """What can be decided by now: columns, what is decided in them, how they came to it."""
        key = (columns, network, chosen)
        found = self._begins.get(key)
        if found is None:
            found = self._begins[key] = [(columns, chosen, ())]
            reach = self.acceptors.reach
            stay = [Batch(column, 0, column) for column in columns]
            options = [(s, *reach(s.column, network).voting) for s in stay]
            for batches in itertools.product(*options):
                moved = tuple((i, b) for i, b in enumerate(batches) if b is not stay[i])
                now = (batches[0].column, batches[1].column, batches[2].column)
                known = chosen | self.decided(now)
                if not moved or any(
                    known == chosen | self.decided(_replaced(now, i, columns[i])) for i, _ in moved
                ):
                    continue
                found.append((now, known, moved))
        return found

    # ------------------------------------------------------------ what matters

    def decided(self, columns: Trio) -> int:
        """What a majority of the columns voted for."""
        values = self.acceptors.columns.values
        a, b, c = (values[column].votes for column in columns)
        return self.decided_by(a & b | a & c | b & c)

    def decided_by(self, votes: int) -> int:
        """What these votes decide, when a majority cast them."""
        found = self._decided.get(votes)
        if found is None:
            found = 0
            for i, vote in enumerate(self.acceptors.votes.values):
                if votes >> i & 1:
                    found |= 1 << self.facts(self.world.decides(vote))
            self._decided[votes] = found
        return found

    def settled(self, columns: Trio, network: int, chosen: int) -> tuple[Trio, int, int]:
        """Columns and network without what can matter no more, and what is decided."""
        a, b, c = columns
        chosen |= self.decided(columns)
        network = self.acceptors.unspent(a, b, c, network)
        offering = self.acceptors.offering
        x = offering(self._voting(a, b, c, chosen), network)
        y = offering(self._voting(b, a, c, chosen), network)
        z = offering(self._voting(c, a, b, chosen), network)
        return (x, y, z), network, chosen

    def _voting(self, column: int, other: int, another: int, chosen: int) -> int:
        """A column with only the votes that can still decide something new."""
        values = self.acceptors.columns.values
        if not values[column].votes:
            return column
        key = (column, values[other].acceptor, values[another].acceptor, chosen)
        found = self._voted.get(key)
        if found is None:
            before = values[column]
            accepts = self.acceptors.accepts
            votes = 0
            for i in range(before.votes.bit_length()):
                if (
                    before.votes >> i & 1
                    and self.decided_by(1 << i) & ~chosen
                    and (accepts(key[1], i) or accepts(key[2], i))
                ):
                    votes |= 1 << i
            found = self._voted[key] = self.acceptors.columns(before._replace(votes=votes))
        return found

    def conflict(self, state: State) -> tuple[str, Moved]:
        """What goes wrong if the acceptors go on by themselves, and how."""
        network, chosen = state[NETWORK], state[CHOSEN]
        reach = [self.acceptors.reach(column, network) for column in state[:ACCEPTORS]]
        most = (reach[0].most, reach[1].most, reach[2].most)
        key = (chosen, most)
        if key in self._harmless:
            return "", ()
        if not any(self._conflict(chosen, a, b, c) for a, b, c in itertools.product(*most)):
            self._harmless.add(key)
            return "", ()
        best: tuple[int, str, Moved] = (0, "", ())
        for some in itertools.product(*(one.votes.items() for one in reach)):
            cost = sum(batch.cost for _, batch in some)
            if not best[1] or cost < best[0]:
                (a, x), (b, y), (c, z) = some
                problem = self._conflict(chosen, a, b, c)
                if problem:
                    best = (cost, problem, ((0, x), (1, y), (2, z)))
        return best[1:]

    def _conflict(self, chosen: int, a: int, b: int, c: int) -> str:
        """What is wrong with these votes of three acceptors."""
        now = chosen | self.decided_by(a & b | a & c | b & c)
        return self.world.conflict(self.truths(now))


def _replaced(columns: Trio, i: int, column: int) -> Trio:
    a, b, c = (column if at == i else one for at, one in enumerate(columns))
    return a, b, c
