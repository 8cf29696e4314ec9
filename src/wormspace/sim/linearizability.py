"""Is a concurrent history one that a sequential object could have produced?

The search of Wing and Gong with Lowe's memoisation: try to place, next in the sequential order, any
operation that was called before the first return not yet placed; remember every (set of placed
operations, state) seen, and go back when nothing fits. A history over independent parts (keys,
registers) is checked part by part. An operation that never returned may take effect at any time
after its call, or never: it may be placed, but need not be.

A history that fails is cut to the shortest prefix in time that fails, and explained: the longest
sequence that could be placed, the state it leads to, and what does not fit there.

A call and a return at the same time count as overlapping. Record with `History`, whose clock ticks
at each event, and there are no ties.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

DEFAULT_BUDGET = 2_000_000
"""Model steps after which a check gives up."""


class _Unknown:
    def __repr__(self) -> str:
        return "?"


UNKNOWN: Any = _Unknown()
"""The output of an operation that never returned."""


@dataclass(frozen=True)
class Operation:
    """One operation of a history. `returned` is None, and output UNKNOWN, if it never did."""

    client: str
    input: Any
    output: Any
    called: float
    returned: float | None

    def __str__(self) -> str:
        until = "never" if self.returned is None else f"{self.returned:g}"
        return f"[{self.called:g} .. {until}] {self.client}: {self.input} -> {self.output}"


S = TypeVar("S", bound=Hashable)


class Model(Protocol[S]):
    """A sequential object. States are immutable and hashable."""

    def initial(self) -> S:
        """The state at the start."""

    def step(self, state: S, input: Any, output: Any) -> tuple[bool, S]:  # noqa: A002
        """Whether `input` may give `output` in this state, and the state after it.

        With output UNKNOWN it may give anything: the answer is True and what it would do.
        """

    def partition(self, history: Sequence[Operation]) -> Iterable[Sequence[Operation]]:
        """The history in parts that do not influence each other; [history] if there are none."""


class Outcome(enum.Enum):
    """What a check found."""

    OK = "linearizable"
    VIOLATION = "not linearizable"
    GAVE_UP = "unknown: the step budget is spent"


@dataclass(frozen=True)
class Verdict:
    """The outcome, why, and the model steps it took.

    linearization: for a violation, the longest sequence that could be placed; misfits: the
    returned operations of which none can come next.
    """

    outcome: Outcome
    steps: int
    explanation: str = ""
    linearization: tuple[Operation, ...] = ()
    misfits: tuple[Operation, ...] = ()

    def __bool__(self) -> bool:
        raise TypeError("a verdict has three outcomes: compare .outcome")


class History:
    """Records operations as they are called and return; a clock of its own orders the events."""

    def __init__(self) -> None:
        self._clock = 0
        self._open: dict[int, tuple[str, Any]] = {}
        self._closed: list[Operation] = []

    def call(self, client: str, input: Any) -> int:  # noqa: A002
        """An operation is called; the result names it."""
        self._clock += 1
        self._open[self._clock] = client, input
        return self._clock

    def ret(self, call: int, output: Any) -> None:
        """The operation returned."""
        self._clock += 1
        client, asked = self._open.pop(call)
        self._closed.append(Operation(client, asked, output, call, self._clock))

    def forget(self, call: int) -> None:
        """The operation is known to have had no effect (it was refused before it was sent)."""
        del self._open[call]

    def operations(self) -> list[Operation]:
        """All operations by call; those that have not returned are of unknown outcome."""
        pending = [Operation(c, i, UNKNOWN, at, None) for at, (c, i) in self._open.items()]
        return sorted([*self._closed, *pending], key=lambda operation: operation.called)


def check(
    model: Model[Any], history: Iterable[Operation], *, budget: int = DEFAULT_BUDGET
) -> Verdict:
    """Check a history against a model, spending at most `budget` steps of the model.

    No part takes more than half of what is left: a hard one does not hide a violation in the rest.
    """
    steps = 0
    outcome = Outcome.OK
    parts = list(model.partition(list(history)))
    for part in parts:
        left = budget - steps
        search = _Search(model, part, left if part is parts[-1] else left // 2)
        found = search.run()
        steps += search.steps
        if found is Outcome.VIOLATION:
            return _explain(model, part, search, steps, budget)
        if found is Outcome.GAVE_UP:
            outcome = found
    return Verdict(outcome, steps)


class _Node:
    """A call or a return, in a doubly linked list in time order."""

    __slots__ = ("after", "before", "index", "match", "operation")

    def __init__(self, index: int, operation: Operation) -> None:
        self.index = index
        self.operation = operation
        self.match: _Node | None = None  # of a call: its return, if it has one
        self.before: _Node | None = None
        self.after: _Node | None = None

    def unlink(self) -> None:
        if self.before is not None:
            self.before.after = self.after
        if self.after is not None:
            self.after.before = self.before

    def relink(self) -> None:
        if self.before is not None:
            self.before.after = self
        if self.after is not None:
            self.after.before = self


class _Search(Generic[S]):
    """One search over one part of a history."""

    def __init__(self, model: Model[S], history: Sequence[Operation], budget: int) -> None:
        self.model = model
        self.budget = budget
        self.steps = 0
        self.best: list[Operation] = []
        self.best_state = model.initial()
        self._head = _Node(-1, Operation("", None, None, 0, 0))
        self._to_return = sum(operation.returned is not None for operation in history)
        _link(self._head, history)

    def run(self) -> Outcome:
        """Look for a sequential order; `best` is the longest found."""
        state = self.model.initial()
        placed = 0
        seen: set[tuple[int, S]] = set()
        stack: list[tuple[_Node, S]] = []
        left = self._to_return
        node = self._head.after
        while left:
            # Before the first return not yet placed, any call may be next. A return is reached only
            # when every call before it was tried; the end of the list, only by what never returned.
            if node is not None and (node.match is not None or _never_returned(node)):
                after = self._try(node, state)
                if after is not None and (key := (placed | 1 << node.index, after[0])) not in seen:
                    seen.add(key)
                    stack.append((node, state))
                    placed, state = key
                    left -= self._place(node)
                    if len(stack) > len(self.best):
                        self.best = [one.operation for one, _ in stack]
                        self.best_state = state
                    node = self._head.after
                else:
                    node = node.after
                if self.steps >= self.budget and left:
                    return Outcome.GAVE_UP
                continue
            if not stack:
                return Outcome.VIOLATION
            node, state = stack.pop()
            placed ^= 1 << node.index
            left += self._take_back(node)
            node = node.after
        return Outcome.OK

    def _try(self, node: _Node, state: S) -> tuple[S] | None:
        self.steps += 1
        operation = node.operation
        fits, after = self.model.step(state, operation.input, operation.output)
        if not fits or (operation.returned is None and after == state):
            return None  # placing what never returned is only worth it for its effect
        return (after,)

    @staticmethod
    def _place(node: _Node) -> int:
        node.unlink()
        if node.match is None:
            return 0
        node.match.unlink()
        return 1

    @staticmethod
    def _take_back(node: _Node) -> int:
        returned = node.match
        if returned is not None:
            returned.relink()
        node.relink()
        return 0 if returned is None else 1


def _never_returned(node: _Node) -> bool:
    return node.operation.returned is None


def _link(head: _Node, history: Sequence[Operation]) -> None:
    events: list[tuple[float, int, int, _Node]] = []
    for index, operation in enumerate(history):
        call = _Node(index, operation)
        events.append((operation.called, 0, index, call))  # at one time, calls come first
        if operation.returned is not None:
            call.match = _Node(index, operation)
            events.append((operation.returned, 1, index, call.match))
    events.sort(key=lambda event: event[:3])
    last = head
    for *_, node in events:
        last.after, node.before = node, last
        last = node


def _until(history: Sequence[Operation], time: float) -> list[Operation]:
    """What had happened by `time`: later returns are not known yet, later calls not made."""
    return [
        one
        if one.returned is not None and one.returned <= time
        else Operation(one.client, one.input, UNKNOWN, one.called, None)
        for one in history
        if one.called <= time
    ]


def _explain(
    model: Model[Any], history: Sequence[Operation], search: _Search[Any], steps: int, budget: int
) -> Verdict:
    """Cut the history to its shortest failing prefix (failing is monotonic in time) and say why."""
    returns = sorted({one.returned for one in history if one.returned is not None})
    low, high = 0, len(returns) - 1
    while low < high:
        middle = (low + high) // 2
        attempt = _Search(model, _until(history, returns[middle]), budget)
        outcome = attempt.run()
        steps += attempt.steps
        if outcome is Outcome.GAVE_UP:
            break
        if outcome is Outcome.VIOLATION:
            high, search = middle, attempt
        else:
            low = middle + 1
    shortest = _until(history, returns[high])
    placed = search.best
    rest = [one for one in shortest if one.returned is not None and one not in placed]
    first_return = min((one.returned for one in rest if one.returned is not None), default=0.0)
    misfits = [one for one in rest if one.called <= first_return]
    text = [
        f"not linearizable by time {returns[high]:g}, after {len(shortest)} operations.",
        f"The longest sequence that could be placed, {len(placed)} operations:",
        *_shorten([f"  {one}" for one in placed]),
        f"leads to the state {search.best_state!r}, where none of these can come next:",
        *_shorten([f"  {one}" for one in misfits]),
    ]
    return Verdict(Outcome.VIOLATION, steps, "\n".join(text), tuple(placed), tuple(misfits))


def _shorten(lines: list[str], limit: int = 20) -> list[str]:
    if len(lines) <= limit:
        return lines
    return [f"  ... {len(lines) - limit} more", *lines[-limit:]]
