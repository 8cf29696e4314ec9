"""Every interleaving of a small world, breadth first, on the shipped acceptor and proposer code.

A world is three acceptors and a few actors (`small_world`).  Its state has one *column* per
acceptor: what it has on disk and in memory, which writes it ever accepted, and the replies it gave
to operations that still listen.  Requests and replies stay in the network for ever, so losing,
repeating, delaying and reordering them needs no steps of its own: a message that is never delivered
is lost, one that is delivered again is a duplicate.  An acceptor may crash and restart between any
two messages; actors may give up at any moment.

Columns are alike, so states that differ in their order only are one (symmetry).  The replies to an
operation have no effect until one of them completes it, so an actor takes in, in one step, any
sequence of them that does (they stay in the network, so nothing is lost by waiting).  Of several
replies of one acceptor to one operation a machine heeds the first it is given, so one is kept, any
one: the others count as lost.  Columns, requests and actors are interned as small integers and
their steps are computed once; most of the search is then look-ups.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

__all__ = ["Actor", "Found", "Move", "SmallWorld", "explore"]

Replies: TypeAlias = tuple[Hashable, ...]
State: TypeAlias = tuple[int, ...]
"""Three columns, ascending; the requests in the network; one entry per actor."""

ACCEPTORS = 3


@dataclass(frozen=True)
class Move:
    """One step of an actor: what it is for people, its state after it, and what it sends to all.

    ends: whether it stops listening for replies to the operation it waited for.
    """

    label: str
    after: Hashable
    sends: tuple[tuple[Hashable, Any], ...] = ()
    ends: bool = True


class Actor(Protocol):
    """A proposer, a reader, ...: a pure function from its state and the replies to its moves."""

    def initial(self) -> Hashable:
        """The state it begins in."""

    def listens(self, state: Any) -> Hashable | None:
        """The operation whose replies it waits for."""

    def moves(
        self, state: Any, replies: tuple[Replies, Replies, Replies], chosen: frozenset[Any]
    ) -> list[Move]:
        """What it may do; `chosen` is what is decided in the whole world, for claims about it."""

    def sees_chosen(self, state: Any) -> bool:
        """Whether its moves depend on `chosen`."""

    def problem(self, state: Any, chosen: frozenset[Any]) -> str:
        """Why this state contradicts what is decided; empty if it does not."""


class SmallWorld(Protocol):
    """What is explored."""

    actors: list[Actor]

    def acceptor(self) -> Hashable:
        """An acceptor's state at the start."""

    def handle(self, acceptor: Any, message: Any) -> tuple[Hashable, Any | None]:
        """An acceptor takes in a message: its state after it, and its reply."""

    def restart(self, acceptor: Any) -> Hashable:
        """What is left of an acceptor's state after a crash."""

    def votes(self, message: Any, reply: Any) -> frozenset[Any]:
        """What the acceptor accepted with this reply: (offset, ballot, value) each."""

    def conflict(self, chosen: frozenset[Any]) -> str:
        """Why these cannot all be decided; empty if they can."""

    def show(self, acceptor: Any) -> str:
        """An acceptor's state, for people."""


@dataclass
class Found:
    """What an exploration found; `transcript` is a shortest way to the `problem`, if there is one.

    complete: whether every reachable state was seen.
    """

    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    complete: bool = False
    problem: str = ""
    transcript: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """States per second."""
        return self.states / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        text = (
            f"{self.states} states, {self.transitions} transitions, depth {self.depth}, "
            f"{self.seconds:.1f} s, {self.rate:.0f} states/s, "
            + ("complete" if self.complete else "not complete")
        )
        if self.problem:
            steps = "\n".join(f"{i:3}. {line}" for i, line in enumerate(self.transcript, 1))
            text += f"\n{self.problem}, in {len(self.transcript)} steps:\n{steps}"
        return text


class _Interned:
    """Values as small integers."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def __call__(self, value: Any) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.values)
            self.values.append(value)
        return number


_Column: TypeAlias = tuple[Any, frozenset[Any], frozenset[tuple[Any, Any]]]
"""The acceptor, all it ever accepted, and the replies under way as (operation, reply)."""


class _Explorer:
    def __init__(self, world: SmallWorld) -> None:
        self.world = world
        self.actors = world.actors
        self.columns = _Interned()
        self.networks = _Interned()
        self.states = _Interned()
        self._column_moves: dict[tuple[int, int], list[tuple[str, int]]] = {}
        self._actor_moves: dict[Any, list[tuple[Move, int]]] = {}
        self._restricted: dict[tuple[int, Any], Replies] = {}
        self._listens: dict[tuple[int, int], Any] = {}
        self._sees: dict[tuple[int, int], bool] = {}
        self._pruned: dict[tuple[int, Any], int] = {}
        self._sent: dict[Any, int] = {}
        self._chosen: dict[tuple[int, int, int], frozenset[Any]] = {}
        self._conflicts: dict[frozenset[Any], str] = {}
        self._problems: dict[Any, str] = {}

    def initial(self) -> State:
        """The state at the start."""
        column = self.columns((self.world.acceptor(), frozenset(), frozenset()))
        network = self.networks(frozenset())
        first = (self.states(actor.initial()) for actor in self.actors)
        return (column,) * ACCEPTORS + (network, *first)

    # ------------------------------------------------------------ steps of acceptors

    def column_moves(self, column: int, network: int) -> list[tuple[str, int]]:
        """An acceptor takes in one message, or crashes and restarts."""
        key = (column, network)
        found = self._column_moves.get(key)
        if found is None:
            found = self._column_moves[key] = list(self._deliveries(column, network))
        return found

    def _deliveries(self, column: int, network: int) -> Iterator[tuple[str, int]]:
        world = self.world
        acceptor, accepted, replies = self.columns.values[column]
        seen = {column}
        requests = sorted(self.networks.values[network], key=repr)
        for operation, message, is_live in requests:
            after, reply = world.handle(acceptor, message)
            options = [replies]
            votes = accepted
            if reply is not None:
                votes = accepted | world.votes(message, reply)
                if is_live:
                    others = frozenset(one for one in replies if one[0] != operation)
                    heard = others | {(operation, reply)}
                    options = [heard] if others == replies else [heard, replies]
            for kept in options:
                number = self.columns((after, votes, kept))
                if number not in seen:
                    seen.add(number)
                    yield f"{message} -> {_text(reply)}; {world.show(after)}", number
        after = world.restart(acceptor)
        number = self.columns((after, accepted, replies))
        if number not in seen:
            yield f"crashes and restarts; {world.show(after)}", number

    # ------------------------------------------------------------ steps of actors

    def actor_moves(self, state: State, which: int) -> list[tuple[Move, int]]:
        """What an actor may do, with its state after it."""
        own = state[ACCEPTORS + 1 + which]
        at = (which, own)
        if at not in self._listens:
            actor, value = self.actors[which], self.states.values[own]
            self._listens[at] = actor.listens(value)
            self._sees[at] = actor.sees_chosen(value)
        operation = self._listens[at]
        chosen = self.chosen(state) if self._sees[at] else None
        if operation is None:
            key: Any = (which, own, chosen)
        else:
            key = (
                which,
                own,
                self._replies(state[0], operation),
                self._replies(state[1], operation),
                self._replies(state[2], operation),
                chosen,
            )
        found = self._actor_moves.get(key)
        if found is None:
            replies = key[2:5] if operation is not None else ((), (), ())
            moves = self.actors[which].moves(
                self.states.values[own], replies, chosen or frozenset()
            )
            found = self._actor_moves[key] = [(move, self.states(move.after)) for move in moves]
        return found

    def _replies(self, column: int, operation: Any) -> Replies:
        key = (column, operation)
        found = self._restricted.get(key)
        if found is None:
            mine = [r for of, r in self.columns.values[column][2] if of == operation]
            found = self._restricted[key] = tuple(sorted(mine, key=repr))
        return found

    def apply(self, state: State, which: int, move: Move, after: int) -> State:
        """The state after an actor's move."""
        columns = state[:ACCEPTORS]
        operation = self._listens[which, state[ACCEPTORS + 1 + which]] if move.ends else None
        if operation is not None:
            columns = tuple(sorted(self._prune(column, operation) for column in columns))
        network = state[ACCEPTORS]
        if operation is not None or move.sends:
            network = self._send(network, move.sends, operation)
        at = ACCEPTORS + 1 + which
        return (*columns, network, *state[ACCEPTORS + 1 : at], after, *state[at + 1 :])

    def _prune(self, column: int, operation: Any) -> int:
        """A column without the replies to an operation that is over."""
        key = (column, operation)
        found = self._pruned.get(key)
        if found is None:
            acceptor, accepted, replies = self.columns.values[column]
            kept = frozenset(one for one in replies if one[0] != operation)
            found = self._pruned[key] = self.columns((acceptor, accepted, kept))
        return found

    def _send(self, network: int, sends: Any, over: Any) -> int:
        key = (network, sends, over)
        found = self._sent.get(key)
        if found is None:
            requests = {
                (None, message, False) if operation == over and over is not None else one
                for one in self.networks.values[network]
                for operation, message, _ in (one,)
            }
            requests.update((operation, m, operation is not None) for operation, m in sends)
            found = self._sent[key] = self.networks(frozenset(requests))
        return found

    # ------------------------------------------------------------ what must hold

    def chosen(self, state: State) -> frozenset[Any]:
        """What a majority ever accepted: (offset, ballot, value) each."""
        a, b, c = state[0], state[1], state[2]
        key = (a, b, c)
        found = self._chosen.get(key)
        if found is None:
            x, y, z = (self.columns.values[column][1] for column in key)
            found = self._chosen[key] = (x & y) | (x & z) | (y & z)
        return found

    def problem(self, state: State) -> str:
        """What is wrong with a state; empty if nothing is."""
        chosen = self.chosen(state)
        found = self._conflicts.get(chosen)
        if found is None:
            found = self._conflicts[chosen] = self.world.conflict(chosen)
        if found:
            return found
        for which, actor in enumerate(self.actors):
            own = state[ACCEPTORS + 1 + which]
            key = (which, own, chosen)
            found = self._problems.get(key)
            if found is None:
                found = self._problems[key] = actor.problem(self.states.values[own], chosen)
            if found:
                return found
        return ""

    def successors(self, state: State) -> Iterator[tuple[str, State]]:
        """All steps from a state, with words for each."""
        a, b, c, network = state[:4]
        rest = state[3:]
        for label, after in self.column_moves(a, network):
            yield label, (*_sorted(after, b, c), *rest)
        if b != a:
            for label, after in self.column_moves(b, network):
                yield label, (*_sorted(a, after, c), *rest)
        if c != b:
            for label, after in self.column_moves(c, network):
                yield label, (*_sorted(a, b, after), *rest)
        for which in range(len(self.actors)):
            for move, own in self.actor_moves(state, which):
                yield move.label, self.apply(state, which, move, own)


def _sorted(a: int, b: int, c: int) -> tuple[int, int, int]:
    if a > b:
        a, b = b, a
    if b > c:
        b, c = c, b
        if a > b:
            a, b = b, a
    return a, b, c


def explore(world: SmallWorld, max_states: int = 5_000_000) -> Found:
    """Search until something is wrong, everything was seen, or there are too many states."""
    explorer = _Explorer(world)
    found = Found()
    began = time.perf_counter()
    first = explorer.initial()
    parents: dict[State, State | None] = {first: None}
    frontier = [first]
    wrong: State | None = None
    problem = explorer.problem
    while frontier and wrong is None and len(parents) < max_states:
        following: list[State] = []
        for state in frontier:
            for _, after in explorer.successors(state):
                found.transitions += 1
                if after in parents:
                    continue
                parents[after] = state
                following.append(after)
                if problem(after):
                    wrong = after
                    break
            if wrong is not None:
                break
        frontier = following
        found.depth += 1
    found.seconds = time.perf_counter() - began
    found.states = len(parents)
    found.complete = not frontier
    if wrong is not None:
        found.problem = problem(wrong)
        found.transcript = _transcript(explorer, parents, wrong)
    return found


def _transcript(explorer: _Explorer, parents: dict[State, State | None], last: State) -> list[str]:
    """The way to a state in words; servers keep their names although columns are sorted."""
    path = [last]
    while (before := parents[path[-1]]) is not None:
        path.append(before)
    path.reverse()
    names = list(path[0][:ACCEPTORS])
    lines = []
    for before, after in itertools.pairwise(path):
        label = next(text for text, one in explorer.successors(before) if one == after)
        gone = _less(before[:ACCEPTORS], after[:ACCEPTORS])
        if len(gone) == 1 and before[ACCEPTORS:] == after[ACCEPTORS:]:
            server = names.index(gone[0])
            names[server] = _less(after[:ACCEPTORS], before[:ACCEPTORS])[0]
            lines.append(f"server {server + 1}: {label}")
            continue
        which = next(
            i for i, (x, y) in enumerate(zip(before, after, strict=True)) if i > 3 and x != y
        )
        operation = explorer._listens[which - 4, before[which]]
        if operation is not None and sorted(names) != list(after[:ACCEPTORS]):
            names = [explorer._prune(column, operation) for column in names]
        lines.append(label)
    return lines


def _less(some: tuple[int, ...], others: tuple[int, ...]) -> list[int]:
    """`some` without `others`, each as often as it occurs."""
    left = list(some)
    for one in others:
        if one in left:
            left.remove(one)
    return left


def _text(message: Any) -> str:
    return "nothing" if message is None else str(message)
