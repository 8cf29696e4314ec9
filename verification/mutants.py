"""The proof of the proof: what is proved must stop being provable when the code is made wrong.

`code()` and `procedures()` mutate the syntax trees of every proved function: comparisons, branches,
boolean operators, fields, arguments, results, whole statements.  `specification()` does so to the
register's, and `model()` leaves out every part of every guard of layers 2 and 4 in turn.  A mutant
that the proof does not notice is a *survivor*, and has to be explained, by name, in survivors.txt.

Each is tried in a process of its own, forked from one in which all is loaded: none can disturb
another, and one that does not end is ended.

    python -m verification.mutants                all of them (`make prove-mutants`)
    python -m verification.mutants on_write       those whose name has this in it
    python -m verification.mutants --part 2/8     every eighth, from the second on
    python -m verification.mutants --log FILE     notes every verdict there, and goes on after it

A log is good for one state of the code and the proof; begin a new one when either is changed.
"""

from __future__ import annotations

import argparse
import ast
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

from verification import applications, goals, protocol, prover, ranges, trials
from verification.goals import Goal
from verification.loops import Engine
from verification.mutating import changes, of_function
from verification.register import SPEC
from verification.source import CORE
from verification.state import State
from verification.trials import Verdict

SURVIVORS = Path(__file__).resolve().parent / "survivors.txt"
CPU_SECONDS = 60
"""For one mutant; what ships takes the slowest section some five."""
EFFORT = 5_000_000
"""Of z3, per goal, in its own unit (a second or two): a verdict must not depend on how busy the
machine is.  What ships is proved with that."""


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        what: was changed: code, procedures, the specification, the model.
        name: that survivors.txt knows it by.
        trial: says what came of it.
    """

    what: str
    name: str
    trial: Callable[[], Verdict]


def code() -> Iterator[Mutant]:
    """Mutants of every function of the core that is proved, or called by one that is."""
    sources = trials.ships(CORE)
    for qualified in sorted(prover.check_lint()):
        module, name = qualified.split(".")
        if (module, name) in {("effects", "to_all"), ("quorum", "members"), ("quorum", "everyone")}:
            continue  # who is sent what: safe whatever it is
        for title, text in of_function(module, name, sources[module]):
            yield Mutant("code", title, partial(trials.killed, {module: text}))


def procedures() -> Iterator[Mutant]:
    """Mutants of every function of the applications that is executed."""
    sources = trials.ships(applications.PACKAGE)
    for qualified in sorted({*applications.check_lint(), *applications.PROCEDURES}):
        module = max((m for m in sources if qualified.startswith(m + ".")), key=len)
        name = qualified.removeprefix(module + ".")
        for title, text in of_function(module, name, sources[module]):
            trial = partial(trials.killed_application, {module: text})
            yield Mutant("procedures", title, trial)


def specification() -> Iterator[Mutant]:
    """Mutants of the register's specification."""
    source = SPEC.read_text()
    for name in ("capture", "write", "read"):
        for title, text in of_function("spec", name, source):
            yield Mutant("specification", title, partial(trials.killed_specification, text))


def model() -> Iterator[Mutant]:
    """Actions with one part of the guard left out, and the goals that they have to keep."""
    engine = Engine(prover.INVARIANTS)
    ranges.prove(engine)
    for action in protocol.all_actions(engine):
        for k, part in enumerate(action.guard(State())):
            text = " ".join(str(part).split())[:90]
            name = f"guard of {action.name!r}, part {k}: {text}"
            yield Mutant("model", name, partial(_kept, partial(protocol.kept, action, k)))
    for system in applications.systems(applications.engine()):
        for action_name in system.actions:
            for k in system.guards(action_name):
                text = " ".join(str(system.step(action_name)[2][k]).split())[:90]
                name = f"guard of {system.name}, {action_name!r}, part {k}: {text}"
                kept = partial(system.kept, action_name, k)
                yield Mutant("model", name, partial(_kept, kept))


def _kept(goals: Callable[[], list[Goal]]) -> Verdict:
    return trials.of_goals(goals())


def all_mutants() -> list[Mutant]:
    """Every mutant; a second one of the same name is told apart by a number."""
    out, seen = [], Counter[str]()
    for mutant in [*code(), *procedures(), *specification(), *model()]:
        seen[mutant.name] += 1
        again = f" #{seen[mutant.name]}" if seen[mutant.name] > 1 else ""
        out.append(Mutant(mutant.what, mutant.name + again, mutant.trial))
    return out


def explained() -> dict[str, str]:
    """survivors.txt: the survivor's name, and why it changes nothing that matters."""
    out: dict[str, str] = {}
    for line in SURVIVORS.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, why = line.partition(" || ")
            out[name] = why
    return out


def stale() -> list[str]:
    """The names in survivors.txt of which there is no mutant: the code has changed."""
    named = explained()
    functions = {name.split(" ")[0] for name in named}
    there = Counter[str]()
    sources = {**trials.ships(CORE), **trials.ships(applications.PACKAGE)}
    for qualified in sorted(
        {*prover.check_lint(), *applications.check_lint(), *applications.PROCEDURES}
    ):
        if qualified in functions:
            module = max((m for m in sources if qualified.startswith(m + ".")), key=len)
            name = qualified.removeprefix(module + ".")
            there.update(title for title, _ in changes(module, name, sources[module]))
    there.update(mutant.name for mutant in model())
    every = {again for name, count in there.items() for again in _numbered(name, count)}
    return sorted(named.keys() - every)


def _numbered(name: str, count: int) -> list[str]:
    """The names of so many mutants of one name."""
    return [name, *(f"{name} #{k}" for k in range(2, count + 1))]


# ------------------------------------------------------------------ running


class NoVerdict(Exception):
    """The trial itself failed: that says nothing about the mutant."""


def _try(mutant: Mutant, answer: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    answer.send((mutant.trial(), time.process_time()))


def run(mutants: Iterable[Mutant], jobs: int) -> Iterator[tuple[Mutant, Verdict, float]]:
    """Try them, `jobs` at a time: the verdicts as they come, with the CPU seconds they took."""
    fork = get_context("fork")
    left = iter(mutants)
    running: dict[Connection, tuple[Mutant, ForkProcess]] = {}
    while True:
        while len(running) < jobs and (mutant := next(left, None)):
            here, there = fork.Pipe(duplex=False)
            process = fork.Process(target=_try, args=(mutant, there), daemon=True)
            process.start()
            there.close()
            running[here] = mutant, process
        if not running:
            return
        for here in [one for one in connection.wait(list(running)) if isinstance(one, Connection)]:
            mutant, process = running.pop(here)
            try:
                verdict, seconds = here.recv()
            except EOFError:
                process.join()
                if process.exitcode != -signal.SIGXCPU:
                    raise NoVerdict(f"{mutant.name}: exit {process.exitcode}") from None
                verdict, seconds = Verdict(trials.ENDLESS), float(CPU_SECONDS)
            process.join()
            here.close()
            yield mutant, verdict, seconds


def _unchanged() -> Verdict:
    """What ships, tried as the mutants are: a proof that fails anyway would kill them all."""

    def text(source: str) -> str:
        return ast.unparse(ast.parse(source))

    of_core = trials.killed({name: text(source) for name, source in trials.ships(CORE).items()})
    above = trials.ships(applications.PACKAGE)
    of_rest = trials.killed_application({name: text(source) for name, source in above.items()})
    of_spec = trials.killed_specification(text(SPEC.read_text()))
    return next((v for v in (of_core, of_rest, of_spec) if v.killed), of_core)


def note(log: Path | None, mutant: Mutant, verdict: Verdict, seconds: float) -> None:
    """Add a verdict to the log, if there is one."""
    if log is not None:
        with log.open("a") as file:
            file.write(f"{verdict.kind}\t{seconds:.1f}\t{mutant.name}\t{verdict.why}\n")


def logged(log: Path | None) -> dict[str, tuple[Verdict, float]]:
    """The verdicts of a run that was interrupted, by the mutants' names."""
    lines = log.read_text().splitlines() if log is not None and log.exists() else []
    fields = [line.split("\t") for line in lines]
    return {name: (Verdict(kind, why), float(seconds)) for kind, seconds, name, why in fields}


def _summary(results: list[tuple[Mutant, Verdict, float]]) -> Iterator[str]:
    for what in dict.fromkeys(mutant.what for mutant, _, _ in results):
        own = [(verdict, seconds) for mutant, verdict, seconds in results if mutant.what == what]
        kinds = Counter(verdict.kind for verdict, _ in own)
        survived = kinds.pop(trials.SURVIVED, 0)
        how = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        yield (
            f"{what}: {len(own)} mutants, {kinds.total()} killed ({how}), {survived} survived, "
            f"{sum(seconds for _, seconds in own):.0f} CPU s"
        )


def main() -> int:
    """Run them; 0 if every survivor is explained, and nothing else."""
    parser = argparse.ArgumentParser(prog="python -m verification.mutants")
    parser.add_argument("only", nargs="?", default="", help="a part of the names")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="the Kth of N parts")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--log", type=Path, help="a file of verdicts, to go on after")
    arguments = parser.parse_args()
    first, step = map(int, arguments.part.split("/"))
    began = time.perf_counter()
    goals.EFFORT, goals.TIMEOUT_MS = EFFORT, 600_000
    if (verdict := _unchanged()).killed:
        print(f"the proof fails for what ships: {verdict.kind}: {verdict.why}")
        return 1
    for section in (*trials.LAYER_1, *trials.LAYER_4):
        trials.executed(section)
    every, known, faults = all_mutants(), explained(), 0
    for name in sorted(set(known) - {mutant.name for mutant in every}):
        faults += 1
        print(f"explained, but there is no such mutant: {name}")
    chosen = [mutant for mutant in every if arguments.only in mutant.name][first - 1 :: step]
    before = logged(arguments.log)
    results = [(mutant, *before[mutant.name]) for mutant in chosen if mutant.name in before]
    todo = [mutant for mutant in chosen if mutant.name not in before]
    for mutant, verdict, seconds in chain(list(results), run(todo, arguments.jobs)):
        if mutant.name not in before:
            results.append((mutant, verdict, seconds))
            note(arguments.log, mutant, verdict, seconds)
        if not verdict.killed and not known.get(mutant.name):
            faults += 1
            print(f"SURVIVED, not explained: {mutant.name}", flush=True)
        if verdict.killed and mutant.name in known:
            faults += 1
            print(f"explained, but no survivor any more: {mutant.name}", flush=True)
    print(*_summary(results), sep="\n")
    print(f"{len(results)} of {len(every)} mutants, {time.perf_counter() - began:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
