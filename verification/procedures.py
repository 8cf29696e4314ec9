"""Procedures: shipped code that awaits registers, executed between one call and the next.

A procedure of the applications ("capture the register, write a vote if it is empty, return the one
that stands") is run as it ships, on symbolic values.  Each call of a register is answered with all
that the *specification* (layer 3) lets it answer: a register is empty until some moment and holds
one value, `held`, ever after; others may act between any two calls, and any call may fail in each
way that it is documented to fail in.  What is proved is what the procedure writes, and when; and
that what it returns stands.

A retry is followed twice.  Its variables are then compared with those of the first attempt: they
are the very same, but for the ones that only pace it, so that it goes on like this for ever.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import z3

from verification import theory as th
from verification.explaining import like
from verification.goals import CODE, Goal
from verification.loops import Claims, Engine
from verification.symex import (
    Path,
    SymBool,
    SymInt,
    SymWord,
    Unsupported,
    bool_term,
    current,
    explore,
    int_term,
    word_term,
)
from wormspace.errors import AlreadyWritten, CaptureLost, Trimmed, Unavailable, WormError

PACE = {"deadline", "asked"}
"""Variables that a retry may change: they say until when to wait, and since when."""
ATTEMPTS = 2


class Again(Exception):
    """A retry that is like the first attempt: there is nothing new to follow."""


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that is never kept waiting."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise Unsupported("the procedure waits for something that nobody answers")


def choose(what: str) -> bool:
    """Either."""
    return bool(SymBool(th.fresh(what, th.Bool)))


def fails(*errors: WormError) -> None:
    """Raise one of the errors, or none."""
    for error in errors:
        if choose(type(error).__name__):
            raise error


class Thing:
    """An object with the attributes that a procedure uses."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Unsupported(
            f"the code asks for .{name}, which the scene it is executed in does not have; "
            f"there are: {like(name, self.__dict__)}; if it was renamed, rename it there, too"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value


def replying(answer: Callable[..., Any]) -> Callable[..., Any]:
    """A coroutine function that answers at once."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        return answer(*args, **kwargs)

    return call


class Pairs:
    """A dictionary of symbolic keys: a few pairs."""

    def __init__(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        self.pairs = list(pairs)

    def __contains__(self, key: Any) -> bool:
        return any(bool(key == k) for k, _ in self.pairs)

    def __getitem__(self, key: Any) -> Any:
        return self.get(key)

    def get(self, key: Any, default: Any = None) -> Any:
        """The value, or the default."""
        for k, v in self.pairs:
            if bool(key == k):
                return v
        return default

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs = [(k, v) for k, v in self.pairs if not bool(key == k)] + [(key, value)]

    def __iter__(self) -> Iterator[Any]:
        return iter([k for k, _ in self.pairs])

    def pop(self, key: Any, default: Any = None) -> Any:
        """The value, or the default; the key is gone."""
        value = self.get(key, default)
        self.pairs = [(k, v) for k, v in self.pairs if not bool(key == k)]
        return value

    def clear(self) -> None:
        """Nothing is left."""
        self.pairs = []

    def values(self) -> list[Any]:
        """All values."""
        return [v for _, v in self.pairs]

    def items(self) -> list[tuple[Any, Any]]:
        """All pairs."""
        return list(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


class Register:
    """One register, as it answers a procedure.

    Attributes:
        at: its offset.
        held: what it holds once it is written.
        written: whether it is, at the moment of the last call.
        attempts: what the procedure tried to write, in order.
        errors: how a write may fail, its outcome being unknown.
        trimmed: whether a write was answered so.
        after_capture: per attempt: whether a capture had just found the register empty.
        token: that the last capture gave.
    """

    def __init__(self, at: Any = 0, errors: Sequence[WormError] = (CaptureLost("taken"),)) -> None:
        self.at = at
        self.errors = (Unavailable("no majority"), *errors)
        self.held = SymWord(th.fresh("held", z3.IntSort()))
        self.written: z3.BoolRef = th.fresh("written", th.Bool)
        self.attempts: list[z3.ExprRef] = []
        self.after_capture: list[bool] = []
        self.said_empty = False
        self.trimmed = False
        self.token: Thing | None = None
        self.captures = 0
        self._first: dict[str, Any] = {}

    def later(self) -> z3.BoolRef:
        """A later moment: others may have written meanwhile."""
        now = th.fresh("written", th.Bool)
        current().facts.append(z3.Implies(self.written, now))
        self.written = now
        return now

    def stands(self, value: Any) -> z3.BoolRef:
        """It holds this value by now, and so for ever."""
        return z3.And(self.written, word_term(value) == self.held.z)

    def attempt(self) -> None:
        """The caller's caller begins its loop anew: it must be where it was."""
        self.captures += 1
        now = dict(sys._getframe(2).f_locals)
        if self.captures == 1:
            self._first = now
            return
        for name, value in self._first.items():
            if name not in PACE and now.get(name) is not value:
                raise Unsupported(f"a retry with another {name}")
        if self.captures > ATTEMPTS:
            raise Again

    def _is(self, offset: Any) -> bool:
        """Whether it is this register that is spoken of."""
        return bool(SymBool(int_term(offset) == int_term(self.at)))

    async def capture(self, start: Any, stop: Any = None, *, timeout: Any = None) -> Thing:
        """What it holds, if anything; else the right to write it; others hold nothing."""
        self.attempt()
        fails(Unavailable("no majority"))
        below = int_term(start) + 1 if stop is None else int_term(stop)
        here = z3.And(int_term(start) <= int_term(self.at), int_term(self.at) < below)
        if not bool(SymBool(here)):
            return Thing(written=Pairs([]), token=Thing(free=list))
        self.said_empty = not bool(SymBool(self.later()))
        held = [] if self.said_empty else [(self.at, self.held)]
        self.token = Thing(free=lambda: [self.at][: self.said_empty])
        return Thing(written=Pairs(held), token=self.token)

    async def write(self, offset: Any, value: Any, token: Any = None, timeout: Any = None) -> None:
        """It holds the value now; or one of the errors says why that cannot be said."""
        if not self._is(offset):
            fails(*self.errors)
            return
        self.attempts.append(word_term(value))
        self.after_capture.append(self.said_empty)
        self.later()
        try:
            fails(*self.errors)
        except Trimmed:
            self.trimmed = True
            raise
        current().facts.append(self.written)
        if not bool(SymBool(word_term(value) == self.held.z)):
            raise AlreadyWritten("another value", self.held)  # type: ignore[arg-type]

    async def settle(self, offset: Any, otherwise: Any, *, timeout: Any = None) -> Any:
        """What is proved of `Segment.settle`."""
        fails(*(e for e in self.errors if isinstance(e, Unavailable | Trimmed)))
        if not self._is(offset):
            return SymWord(th.fresh("another's", z3.IntSort()))
        self.attempts.append(word_term(otherwise))
        self.after_capture.append(True)
        current().facts.append(self.later())
        return self.held

    async def read(self, offset: Any, *, timeout: Any = None) -> Any:
        """What it held at some moment of the call."""
        fails(Unavailable("no majority"))
        if not self._is(offset):
            return SymWord(th.fresh("another's", z3.IntSort()))
        return self.held if bool(SymBool(self.later())) else None


async def _gather(*work: Any, return_exceptions: bool = False) -> list[Any]:
    results: list[Any] = []
    for one in work:
        try:
            results.append(await one)
        except WormError as e:
            results.append(e)
    for result in results:
        if isinstance(result, WormError) and not return_exceptions:
            raise result
    return results


def clock() -> Any:
    """`asyncio`, for procedures: time passes, and nothing else."""
    loop = Thing(time=lambda: SymInt(th.fresh("time", z3.IntSort())))
    return Thing(
        sleep=replying(lambda *_: None),
        gather=_gather,
        get_running_loop=lambda: loop,
    )


def paced() -> Thing:
    """A client, of which only the dice are used."""
    return Thing(rng=Thing(uniform=lambda low, high: 0.0), nonce=lambda: b"nonce")


def retrying(*_: Any, **_named: Any) -> Thing:
    """In place of `Backoff` and `Race`: a pause takes time, or finds that there is none left."""
    return Thing(pause=replying(lambda: fails(Unavailable("no time is left"))))


class Done:
    """How a procedure ended: with a result or an error, and what it met.

    Attributes:
        met: whatever the scenario says of itself.
    """

    def __init__(self, result: Any, error: Exception | None, met: Any) -> None:
        self.result = result
        self.error = error
        self.met = met


def run(scenario: Callable[[], tuple[Coroutine[Any, Any, Any], Any]]) -> list[Path]:
    """Every path of a procedure; `scenario` makes the coroutine, and what it meets."""

    def once() -> Done:
        work, met = scenario()
        try:
            return Done(finish(work), None, met)
        except (WormError, Again) as e:
            return Done(None, e, met)

    return explore(once, prune=True, axioms=())


def succeeds(theorem: str, paths: Sequence[Path]) -> Goal:
    """That some path without an error can be taken: else nothing was said of it."""
    good = [path for path in paths if path.error is None and path.result.error is None]
    possible = z3.Or(*[z3.And(*path.hypotheses) for path in good])
    return Goal(theorem, "it can succeed", [possible], z3.BoolVal(True), CODE, possible=True)


def procedure(
    e: Engine,
    theorem: str,
    scenario: Callable[[], tuple[Coroutine[Any, Any, Any], Any]],
    claims: Callable[[Done], Claims],
) -> None:
    """Prove the claims of every path, those that Python itself decided together."""

    def to_prove(done: Done) -> Claims:
        every = claims(done)
        plain = [name for name, claim in every.items() if z3.is_true(z3.simplify(claim))]
        left = {name: claim for name, claim in every.items() if name not in plain}
        return left | {"; ".join(plain): z3.BoolVal(True)} if plain else left

    paths = run(scenario)
    e.each(theorem, paths, to_prove)
    e.goals.append(succeeds(theorem, paths))


def focus_range(at: Any) -> Callable[..., list[Any]]:
    """`range`, of which only the offset `at` is looked at: it stands for any."""

    def numbers(start: Any, stop: Any) -> list[Any]:
        return [at] if bool(at >= start) and bool(at < stop) else []

    return numbers


__all__ = ["Again", "Done", "Path", "Register", "bool_term", "run"]
