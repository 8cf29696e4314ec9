"""Every interleaving of a small world, on the shipped acceptor and proposer code.

A world is three acceptors and a few actors (`small_world`).  Requests stay in the network for ever,
so losing, repeating, delaying and reordering them needs no steps of its own: a message that is
never delivered is lost, one that is delivered again is a duplicate.  An acceptor may crash and
restart between any two messages; actors may give up at any moment.  `tests/sim/every_step.py`
searches just that, step by step.  Here the same is found with some hundred times fewer states:

*Acceptors act when somebody needs it.*  What an acceptor does touches nothing but its own column
(`columns`), and what it may do it may do later.  So for every execution there is one with the same
steps of the actors, in the same order, in which each acceptor's steps come as late as they can: in
batches, each ending with the reply that the actor's next step takes in, or with a vote that a
beginning reader must take account of.  A state is what is there after an actor's step.  Is a false
claim missed by that?  No: a claim is checked when it is made, and the later the acceptors act, the
less is decided by then.  Two decided values?  They may come of what the acceptors do after the last
step of an actor; so it is asked in every state what the acceptors may still do by themselves.

*A reply that changes nothing is there for the taking.*  A delivery that leaves the acceptor as it
was may have happened, or not, at any moment; so an operation is offered all such replies, and may
take one of each acceptor when it completes by that (a machine heeds the first; to it the others
are lost).  Replies that no actor can tell apart are one.  A step takes in no reply that it could do
without: it could do without the acceptor's steps, too.

*What can matter no more is forgotten.*  An acceptor only becomes stricter: what it refuses now, or
has taken in already, it will never take in (again).  So a request is dropped if it changes nothing
at any acceptor and nobody listens to it; a vote, if what it votes for is decided, or nobody else
can cast the same any more; a claim that was true stays true.  Decided marks are forgotten after
each batch: a restart may take them, and the messages that brought them are still under way.
`tests/sim/test_reductions.py` checks of all acceptors it meets that they only become stricter.

*Columns are alike*, so states that differ in their order only are one.

States are visited in the order of the number of deliveries, crashes and steps of actors that lead
to them.  So the first counterexample is a shortest one (but for marks that are learnt twice).
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

from explorer.columns import CRASH, Batch
from explorer.steps import (
    ACCEPTORS,
    CHOSEN,
    FIRST,
    NETWORK,
    Explorer,
    Moved,
    SmallWorld,
    State,
    Step,
)

__all__ = ["Found", "Search", "SmallWorld", "explore"]


@dataclass
class Found:
    """What an exploration found; `transcript` is a shortest way to the `problem`, if there is one.

    states: states after an actor's step.  seconds: of CPU.
    complete: whether every reachable state was seen.
    """

    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    complete: bool = False
    problem: str = ""
    transcript: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = (
            f"{self.states} states, {self.transitions} transitions, depth {self.depth}, "
            f"{self.seconds:.1f} s, {self.transitions / max(self.seconds, 1e-9):.0f} "
            f"transitions/s, " + ("complete" if self.complete else "not complete")
        )
        if self.problem:
            steps = "\n".join(f"{i:3}. {line}" for i, line in enumerate(self.transcript, 1))
            text += f"\n{self.problem}, in {len(self.transcript)} steps:\n{steps}"
        return text


@dataclass
class _End:
    """A problem: what it costs to come to it, from which state, by which step or last batches."""

    cost: int
    problem: str
    state: State
    step: Step | None = None
    moved: Moved = ()


class Search:
    """A search by cost: Dijkstra, over the steps of actors with what acceptors do for them."""

    def __init__(self, world: SmallWorld) -> None:
        self.explorer = Explorer(world)
        first = self.explorer.initial()
        self.reached: dict[State, tuple[int, State]] = {first: (0, first)}
        self.waiting: dict[int, list[State]] = {0: [first]}
        self.found = Found()
        self.end: _End | None = None

    def run(self, max_states: int) -> None:
        """Visit the states by what they cost."""
        while self.waiting and len(self.reached) < max_states:
            cost = self.found.depth = min(self.waiting)
            if self.end is not None and self.end.cost <= cost:
                return
            for state in self.waiting.pop(cost):
                if self.reached[state][0] == cost:
                    self._visit(state, cost)
        self.found.complete = not self.waiting

    def _visit(self, state: State, cost: int) -> None:
        problem, moved = self.explorer.conflict(state)
        if problem:
            more = sum(batch.cost for _, batch in moved)
            self._wrong(_End(cost + more, problem, state, moved=moved))
            return
        reached, found = self.reached, self.found
        for step in self.explorer.successors(state):
            found.transitions += 1
            total, after, problem = cost + step[0], step[1], step[2]
            if problem:
                self._wrong(_End(total, problem, state, step))
                continue
            known = reached.get(after)
            if known is None or total < known[0]:
                reached[after] = (total, state)
                self.waiting.setdefault(total, []).append(after)

    def _wrong(self, end: _End) -> None:
        if self.end is None or end.cost < self.end.cost:
            self.end = end

    # ------------------------------------------------------------ for people

    def transcript(self, end: _End) -> list[str]:
        """The way to the end in words; servers keep their names although columns are sorted."""
        path = [end.state]
        while path[-1] != self.reached[path[-1]][1]:
            path.append(self.reached[path[-1]][1])
        path.reverse()
        held = list(path[0][:ACCEPTORS])
        lines: list[str] = []
        for before, after in itertools.pairwise(path):
            steps = (step for step in self.explorer.successors(before) if step[1] == after)
            lines += self._told(before, min(steps, key=lambda step: step[0]), held)
        if end.step is not None:
            return lines + self._told(end.state, end.step, held)
        return lines + self._acted(end.state, end.moved, held)

    def _told(self, before: State, step: Step, held: list[int]) -> list[str]:
        """A step in words; `held` becomes the columns after it, server by server."""
        _, _, _, which, way, moved = step
        lines = self._acted(before, moved, held)
        explorer = self.explorer
        operation = explorer.listens(which, before[FIRST + which])[0]
        sent, network = explorer.sent((held[0], held[1], held[2]), before[NETWORK], operation, way)
        held[:] = explorer.settled(sent, network, before[CHOSEN] | way.facts)[0]
        return [*lines, way.move.label]

    def _acted(self, before: State, moved: Moved, held: list[int]) -> list[str]:
        """The batches of some acceptors in words."""
        lines = []
        free = list(range(ACCEPTORS))
        places = {}
        for place, column in enumerate(before[:ACCEPTORS]):
            places[place] = next(server for server in free if held[server] == column)
            free.remove(places[place])
        for place, batch in moved:
            server = places[place]
            told = self._batch(held[server], before[NETWORK], batch)
            lines += [f"server {server + 1}: {line}" for line in told]
            held[server] = batch.column
        return lines

    def _batch(self, column: int, network: int, batch: Batch) -> list[str]:
        acceptors = self.explorer.acceptors
        values = acceptors.columns.values
        found = acceptors.reach(column, network).found

        def show(acceptor: int) -> str:
            return acceptors.world.show(acceptors.stores.values[acceptor])

        lines = []
        last = batch.last
        if batch.offer is not None:
            operation = batch.offer.operation
            message = next(
                r.message for r in acceptors.networks.values[network] if r.operation == operation
            )
            acceptor = values[last].acceptor
            reply = acceptors.replies.values[batch.offer.reply]
            lines.append(f"{acceptors.messages.values[message]} -> {reply}; {show(acceptor)}")
        while last != column:
            _, before, message = found[last]
            now = show(values[last].acceptor)
            if message == CRASH:
                lines.append(f"crashes and restarts; {now}")
            else:
                reply = acceptors.answer(values[before].acceptor, message)[1]
                text = "nothing" if reply is None else str(reply)
                lines.append(f"{acceptors.messages.values[message]} -> {text}; {now}")
            last = before
        return lines[::-1]


def explore(world: SmallWorld, max_states: int = 5_000_000) -> Found:
    """Search until something is wrong, everything was seen, or there are too many states."""
    began = time.process_time()
    search = Search(world)
    search.run(max_states)
    found = search.found
    found.states = len(search.reached)
    if search.end is not None:
        found.problem = search.end.problem
        found.transcript = search.transcript(search.end)
    found.seconds = time.process_time() - began
    return found
