"""Every interleaving of a small world, step by step: slow and obvious, to check `explore` against.

Breadth first.  A step is one delivery, one crash, or one step of an actor; nothing is put off,
merged or forgotten.  Of several replies of one acceptor to one operation a machine heeds the first
that it is given, so one is kept, any one; columns of acceptors are sorted.
"""

import functools
from dataclasses import dataclass, field


@dataclass
class Seen:
    """What a search saw.

    actors: per combination of the actors' states the least number of steps to it.
    chosen: the sets of what was decided.  steps: how deep the search went, and if there is a
    problem, the least number of steps to it.
    """

    states: int = 0
    actors: dict = field(default_factory=dict)
    chosen: set = field(default_factory=set)
    problem: str = ""
    steps: int = 0
    complete: bool = False


def every_step(world, max_states=2_000_000):
    """Search until something is wrong or everything was seen."""
    handle = functools.cache(world.handle)
    restart = functools.cache(world.restart)
    ordered = functools.cache(repr)

    @functools.cache
    def column_steps(column, network):
        acceptor, votes, replies = column
        after = {(restart(acceptor), votes, replies)}
        for operation, message in network:
            state, reply = handle(acceptor, message)
            cast = votes | frozenset(world.votes(message, reply)) if reply is not None else votes
            after.add((state, cast, replies))
            if operation is not None and reply is not None:
                others = frozenset(one for one in replies if one[0] != operation)
                after.add((state, cast, others | {(operation, reply)}))
        return [(one, ordered(one)) for one in after if one != column]

    @functools.cache
    def moves(which, state, replies, chosen):
        return world.actors[which].moves(state, replies, chosen)

    @functools.cache
    def chosen_by(a, b, c):
        majority = (a & b) | (a & c) | (b & c)
        return frozenset(world.decides(vote) for vote in majority)

    @functools.cache
    def without(column, operation):
        acceptor, votes, replies = column
        return acceptor, votes, frozenset(one for one in replies if one[0] != operation)

    def successors(state):
        columns, network, facts, actors = state
        for i, column in enumerate(columns):
            for after, _ in column_steps(column, network):
                trio = sorted((*columns[:i], after, *columns[i + 1 :]), key=ordered)
                yield (tuple(trio), network, facts, actors), ""
        chosen = chosen_by(*(votes for _, votes, _ in columns)) | facts
        for which, own in enumerate(actors):
            actor = world.actors[which]
            operation = actor.listens(own)
            given = tuple(
                next((reply for of, reply in replies if of == operation), None)
                for _, _, replies in columns
            )
            visible = chosen if actor.sees_chosen(own) else frozenset()
            for move in moves(which, own, given, visible):
                problem = move.problem
                if move.claims - chosen:
                    problem = world.refute(move.claims - chosen)
                trio, asked = columns, set(network)
                if move.ends and operation is not None:
                    trio = tuple(sorted((without(c, operation) for c in columns), key=ordered))
                    asked = {(None if of == operation else of, m) for of, m in asked}
                after = (*actors[:which], move.after, *actors[which + 1 :])
                asked = frozenset(asked | set(move.sends))
                yield (trio, asked, facts | move.facts, after), problem

    seen = Seen()
    start = (world.acceptor(), frozenset(), frozenset())
    first = ((start,) * 3, frozenset(), frozenset(), tuple(a.initial() for a in world.actors))
    reached, frontier = {first}, [first]
    while frontier and len(reached) <= max_states and not seen.problem:
        following = []
        for state in frontier:
            columns, _, facts, actors = state
            seen.actors.setdefault(actors, seen.steps)
            seen.chosen.add(chosen_by(*(votes for _, votes, _ in columns)) | facts)
            for after, problem in successors(state):
                seen.problem = seen.problem or problem
                if after not in reached:
                    reached.add(after)
                    following.append(after)
                    votes = (cast for _, cast, _ in after[0])
                    seen.problem = seen.problem or world.conflict(chosen_by(*votes))
        frontier = following
        seen.steps += 1
    seen.states = len(reached)
    seen.complete = not frontier
    return seen
