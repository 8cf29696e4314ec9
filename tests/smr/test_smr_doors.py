"""Every argument of every call for users of replicated objects is passed wrong ones."""

from __future__ import annotations

import contextlib
import inspect
import math
import random
from types import SimpleNamespace

import msgspec
import pytest

import wormspace
from wormspace import smr
from wormspace.errors import UsageError, WormError
from wormspace.smr import (
    Counter,
    Fixed,
    Linearizable,
    LocalSnapshots,
    Lock,
    MemorySnapshots,
    NeverTrim,
    Queue,
    Rotating,
    Session,
    StateMachine,
    Sticky,
    TrimBehindSnapshots,
    TrimWhenApplied,
    Tuning,
    attach,
    command,
    holding,
    query,
    taking,
)

NAN, SURROGATE = math.nan, "\ud800"


async def comes_later(self) -> int:
    return 1


def comes_in_parts(self) -> int:
    yield 1


MACHINE = [None, 5, dict, StateMachine, Counter(), "Counter"]
NAME = [None, 5, b"hits", "", "n" * 256, SURROGATE]
SECONDS = [None, 0, -1, NAN, math.inf, "1", True, 1e10]
NUMBER = [None, -1, NAN, math.inf, "1"]
COUNT = [None, -1, 1.5, "1", True]
TEXT = [None, 5, b"a", SURROGATE, "a" * 256]
LEVEL = [5, "linearizable", Linearizable, object()]
RNG = [5, "dice", random.Random]
ADDRESSES = [None, 5, "h:1", b"h", [], ["h:1"], [("h",)], [("h", "1")], [("h", 0)], [(5, 1)], [1]]
DIRECTORY = [None, 5, "", b"here", "a\0b", ["here"]]
METHOD = [None, 5, "add", len, Lock.acquire, Counter, StateMachine.emit]
FUNCTION = [None, 5, "add", Counter, staticmethod(len), comes_later, comes_in_parts]

CASES = {
    "replicate": {
        "machine_type": (lambda o, x: o.worm.replicate(x, "new"), MACHINE),
        "name": (lambda o, x: o.worm.replicate(Counter, x), NAME),
        "replica": (lambda o, x: o.new(replica=x), TEXT),
        "host": (lambda o, x: o.new(host=x), TEXT),
        "port": (lambda o, x: o.new(port=x), [None, -1, 65536, "80", 1.5, True]),
        "leadership": (lambda o, x: o.new(leadership=x), [0, "", "sticky", Sticky, NeverTrim()]),
        "durability": (lambda o, x: o.new(durability=x), [0, False, "none", NeverTrim, Sticky()]),
        "consistency": (lambda o, x: o.new(consistency=x), LEVEL),
        "tuning": (lambda o, x: o.new(tuning=x), [5, Tuning, {}]),
        "timeout": (lambda o, x: o.new(timeout=x), SECONDS),
        "clock": (
            lambda o, x: o.new(clock=x),
            [None, 5, lambda: "now", lambda: NAN, lambda: 1e300],
        ),
        "rng": (lambda o, x: o.new(rng=x), RNG),
    },
    "attach": {
        "machine_type": (lambda o, x: attach(x, "hits", o.places), MACHINE),
        "name": (lambda o, x: attach(Counter, x, o.places), NAME),
        "addresses": (lambda o, x: attach(Counter, "hits", x), ADDRESSES),
        "consistency": (lambda o, x: attach(Counter, "hits", o.places, consistency=x), LEVEL),
        "timeout": (lambda o, x: attach(Counter, "hits", o.places, timeout=x), SECONDS),
        "rng": (lambda o, x: attach(Counter, "hits", o.places, rng=x), RNG),
    },
    "Worm.attach": {
        "machine_type": (lambda o, x: o.worm.attach(x, "Counter"), MACHINE),
        "name": (lambda o, x: o.worm.attach(Counter, x), NAME),
        "consistency": (lambda o, x: o.worm.attach(Counter, "Counter", consistency=x), LEVEL),
        "timeout": (lambda o, x: o.worm.attach(Counter, "Counter", timeout=x), SECONDS),
        "rng": (lambda o, x: o.worm.attach(Counter, "Counter", rng=x), RNG),
    },
    "holding": {
        "lock": (lambda o, x: holding(x, "me"), [None, 5, Lock, Lock(), "queue"]),
        "owner": (lambda o, x: holding(o.lock, x), [None, 5, b"me", SURROGATE]),
        "lease_s": (lambda o, x: holding(o.lock, "me", x), SECONDS),
        "rng": (lambda o, x: holding(o.lock, "me", rng=x), RNG),
    },
    "taking": {
        "queue": (lambda o, x: taking(x), [None, 5, Queue, Queue(), "lock"]),
        "lease_s": (lambda o, x: taking(o.queue, x), SECONDS),
        "rng": (lambda o, x: taking(o.queue, rng=x), RNG),
    },
    "command": {"function": (lambda o, x: command(x), FUNCTION)},
    "query": {"function": (lambda o, x: query(x), FUNCTION)},
    "Sticky": {"timeout_s": (lambda o, x: Sticky(x), SECONDS)},
    "Fixed": {
        "leader": (lambda o, x: Fixed(x), [*TEXT, ""]),
        "timeout_s": (lambda o, x: Fixed("one", x), SECONDS),
    },
    "Rotating": {"timeout_s": (lambda o, x: Rotating(x), SECONDS)},
    "TrimWhenApplied": {
        "replicas": (lambda o, x: TrimWhenApplied(x), [*COUNT, 0]),
        "every_s": (lambda o, x: TrimWhenApplied(1, x), SECONDS),
    },
    "TrimBehindSnapshots": {
        "place": (lambda o, x: TrimBehindSnapshots(x), [*DIRECTORY, MemorySnapshots, object()]),
        "registers": (lambda o, x: TrimBehindSnapshots("here", registers=x), [*COUNT, 0]),
        "copies": (lambda o, x: TrimBehindSnapshots("here", copies=x), COUNT),
        "every_s": (lambda o, x: TrimBehindSnapshots("here", every_s=x), SECONDS),
    },
    "Tuning": {
        "segment_size": (lambda o, x: Tuning(segment_size=x), [*COUNT, 0, 1 << 32]),
        "batch_bytes": (lambda o, x: Tuning(batch_bytes=x), [*COUNT, 0]),
        "pipeline": (lambda o, x: Tuning(pipeline=x), [*COUNT, 0]),
        "audit_s": (lambda o, x: Tuning(audit_s=x), NUMBER),
        "upgrade_s": (lambda o, x: Tuning(upgrade_s=x), NUMBER),
    },
    "LocalSnapshots": {"directory": (lambda o, x: LocalSnapshots(x), DIRECTORY)},
    "LocalSnapshots.claim": {"name": (lambda o, x: LocalSnapshots(o.place).claim(x), NAME)},
    "Session.join": {
        "token": (lambda o, x: Session().join(x), [None, 5, b"0/0", "", "x", "-1/0", SURROGATE])
    },
    "View.at": {"level": (lambda o, x: o.each.at(x), [*LEVEL, None])},
    "View.session": {
        "token": (lambda o, x: o.each.session(x), [None, 5, 0, False, b"0/0", "x", "-1/0"])
    },
    "View.call": {
        "method": (lambda o, x: o.each.call(x, 1), METHOD),
        "args": None,  # those of the command, as below
        "kwargs": None,
    },
    "Replica.listen": {"start": (lambda o, x: o.hits.listen(x), ["1", 0, 1.5, True, 1 << 64])},
    "Remote.listen": {"start": (lambda o, x: o.remote.listen(x), ["1", 0, 1.5, True, 1 << 64])},
}
"""By call and parameter: the call with that argument, and values of it that are wrong."""

MADE_BY_THE_PACKAGE = {"Change", "Entry", "Grant", "Job", "Status", "Versions", "Remote", "Replica"}
MADE_BY_THE_PACKAGE |= {"View", "Session"}
"""Classes whose objects users get; what they call on them is looked at."""

CALLED_BY_THE_PACKAGE = {"open", "make_proposer", "run", "save", "load", "saw"}
"""`Replica.open`, and methods of strategies and places, called with what the package knows."""

LOOKS_AT_TYPES = {"Table"}
"""See test_smr_state and test_smr_table: rows are looked at where commands put them."""


def parameters(function):
    return {p for p in inspect.signature(function).parameters if p != "self"}


def calls():
    """Every call for users, and its parameters."""
    yield "replicate", parameters(wormspace.Worm.replicate)
    yield "Worm.attach", parameters(wormspace.Worm.attach)
    for name in smr.__all__:
        thing = getattr(smr, name)
        if inspect.isfunction(thing):
            yield name, parameters(thing)
            continue
        if not inspect.isclass(thing) or getattr(thing, "_is_protocol", False):
            continue
        if issubclass(thing, WormError | StateMachine) or name in LOOKS_AT_TYPES:
            continue
        if issubclass(thing, msgspec.Struct):
            fields = {field.name for field in msgspec.structs.fields(thing)}
            yield name, set() if name in MADE_BY_THE_PACKAGE else fields
        elif name not in MADE_BY_THE_PACKAGE:
            takes_any = thing.__init__ is object.__init__
            yield name, set() if takes_any else parameters(thing.__init__)
        for method, function in vars(thing).items():
            if method.startswith("_") or method in CALLED_BY_THE_PACKAGE:
                continue
            if inspect.isfunction(function):
                yield f"{name}.{method}", parameters(function)


def test_every_argument_of_every_call_for_users_has_a_case() -> None:
    found = {name: takes for name, takes in calls() if takes}
    assert found == {name: {*cases} for name, cases in CASES.items()}, "add a case to CASES"
    assert {"StateMachine", "command", "query"} <= {*wormspace.__all__}


@contextlib.asynccontextmanager
async def objects(tmp_path):
    async with wormspace.connect("memory:") as worm, contextlib.AsyncExitStack() as stack:

        async def has(machine, name):
            return await stack.enter_async_context(await worm.replicate(machine, name))

        hits, lock, queue = [await has(m, m.__name__) for m in (Counter, Lock, Queue)]
        member = hits.status().member
        places = [(member.host, member.port)]
        remote = await stack.enter_async_context(await attach(Counter, "Counter", places))
        yield SimpleNamespace(
            worm=worm, hits=hits, lock=lock, queue=queue, places=places, remote=remote, each=hits,
            place=tmp_path, new=lambda **options: worm.replicate(Counter, "new", **options),
        )  # fmt: skip


async def outcome(call, o, value):
    try:
        made = call(o, value)
        return await made if inspect.isawaitable(made) else made
    except Exception as e:  # noqa: BLE001 - any of them is the outcome
        return e


async def test_a_wrong_argument_is_refused_and_all_else_goes_on(tmp_path) -> None:
    async with objects(tmp_path) as o:
        for name, cases in CASES.items():
            for parameter, case in cases.items():
                call, wrong = case or (None, [])
                for value in wrong:
                    value = getattr(o, value) if value in ("lock", "queue") else value
                    for each in (o.hits, o.remote):
                        o.each = each
                        came = await outcome(call, o, value)
                        assert isinstance(came, UsageError), (name, parameter, value, came)
        assert await o.hits.add(1) == 1
        assert await o.remote.add(1) == 2
        await o.queue.put(b"job")
        async with holding(o.lock, "me"), taking(o.queue) as job:
            assert job.item == b"job"
        assert "new" not in await o.worm.spaces()


# ------------------------------------------------------------ ready-made types


def wrong_for(hint):
    """Values that are not of a type, nor taken for one."""
    values = [None, True, 5, 1.5, "text", b"bytes", [1], {"a": 1}, object(), 1 << 70, SURROGATE]
    for value in values:
        try:
            raw = msgspec.msgpack.encode(value)
            msgspec.msgpack.decode(raw, type=hint)
        except Exception:  # noqa: BLE001 - however it is told
            yield value


TYPES = [getattr(smr, name) for name in smr.__all__]
TYPES = [t for t in TYPES if inspect.isclass(t) and StateMachine in t.__mro__[1:]]


@pytest.mark.parametrize("machine", TYPES, ids=lambda machine: machine.__name__)
async def test_a_wrong_argument_of_a_command_or_query_is_its_callers_error(machine) -> None:
    async with wormspace.connect("memory:") as worm, contextlib.AsyncExitStack() as stack:
        here = await stack.enter_async_context(await worm.replicate(machine, "it"))
        member = here.status().member
        places = [(member.host, member.port)]
        there = await stack.enter_async_context(await attach(machine, "it", places))
        tried = 0
        for name, method in machine.declaration.methods.items():
            hints = inspect.get_annotations(method.function, eval_str=True)
            right = {
                p.name: {str: "a", bytes: b"a", int: 1, float: 1.0}.get(hints[p.name])
                for p in method.parameters
            }
            for parameter in right:
                for value in wrong_for(hints[parameter]):
                    for it in (here, there):
                        with pytest.raises((TypeError, ValueError, OverflowError)):
                            await getattr(it, name)(**{**right, parameter: value})
                        tried += 1
        assert tried or not any(m.parameters for m in machine.declaration.methods.values())
        assert here.status().applied == wormspace.Address(0, 0), "nothing was sent"


async def test_who_cannot_be_called_at_its_address_says_so() -> None:
    async with wormspace.connect("memory:") as worm:
        async with await worm.replicate(Counter, "hits", host="127.0.0.1") as first:
            port = first.status().member.port
            with pytest.raises(WormError, match=f"cannot listen on 127.0.0.1:{port}: .*; choose"):
                await worm.replicate(Counter, "hits", host="127.0.0.1", port=port)
        with pytest.raises(WormError, match=r"cannot listen on 192\.0\.2\.1:0"):
            await worm.replicate(Counter, "hits", host="192.0.2.1")
