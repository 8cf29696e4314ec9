"""Whatever a command does to the state: it fails alone, has changed nothing, and all serve on."""

import asyncio
import math
from typing import Any

import msgspec
import pytest
from digests import state_digest
from hypothesis import given, settings
from hypothesis import strategies as st

import wormspace
from wormspace.errors import Closed, WormError
from wormspace.smr import (
    BadDeclaration,
    Counter,
    Dict,
    KeyValue,
    Lock,
    Queue,
    Set,
    ShapeChanged,
    StateMachine,
    Sticky,
    Table,
    Tuning,
    command,
    query,
)
from wormspace.smr.calls import encode_calls
from wormspace.smr.engine import Engine
from wormspace.smr.records import Batch, Packet, decode_outcome, decode_plain_outcome
from wormspace.smr.snapshots import Snapshot, restore

ENCODE = msgspec.msgpack.encode


class Point(msgspec.Struct, frozen=True):
    x: int
    y: float = 0.0


def everything(self):
    """Change something of each shape."""
    self.total += 1
    self.price = 3
    self.name += "x"
    self.raw += b"x"
    self.best = Point(self.total, 1)
    self.anything = {"a": [1, (2, 3)]}
    self.stock["a"] = self.total
    self.stock["b"] = 2
    self.stock.pop("b")
    self.lists.setdefault("a", []).append(self.total)
    self.lists["b"] = [self.total]
    self.log.insert(0, 2)
    self.log.append(0.5)
    self.log.sort()
    self.deep.append({"a": {1, self.total}})
    self.deep[0].setdefault("b", set()).add(self.total)
    self.seen.add((self.total, "x"))
    self.maybe = {**(self.maybe or {}), "a": self.total}
    self.rows[f"{self.total:03}"] = Point(self.total)
    self.rows["same"] = Point(self.total)


WRONG = {
    "overflow": lambda self: setattr(self, "total", 2**64),
    "negative overflow": lambda self: setattr(self, "total", -(2**63) - 1),
    "float in an int": lambda self: setattr(self, "total", 1.5),
    "text in an int": lambda self: setattr(self, "total", "1"),
    "bool in an int": lambda self: setattr(self, "total", True),
    "surrogate": lambda self: setattr(self, "name", "\ud800"),
    "undeclared": lambda self: setattr(self, "surprise", 1),
    "deleted": lambda self: delattr(self, "total"),
    "table replaced": lambda self: setattr(self, "rows", {}),
    "row of another type": lambda self: self.rows.update({"a": 3}),
    "row that overflows": lambda self: self.rows.update({"a": Point(2**70)}),
    "key of another type": lambda self: self.rows.update({3: Point(1)}),
    "mutable in a struct": lambda self: setattr(self, "best", Point([1])),
    "item of another type": lambda self: self.stock.update(a="x"),
    "key that is none": lambda self: self.stock.update({b"a": 1}),
    "nested of another type": lambda self: self.lists["a"].append("x"),
    "filled wrongly later": lambda self: self.lists.setdefault("z", []).append(2**65),
    "new and wrong": lambda self: self.lists.update(z=[1, "x"]),
    "nested deep": lambda self: self.deep[0].update(z={1, "x"}),
    "wrong list": lambda self: self.log.extend([1.0, "x"]),
    "wrong slice": lambda self: self.log.__setitem__(slice(None), ["x"]),
    "wrong member": lambda self: self.seen.add(("x", 1)),
    "member that has no order": lambda self: self.seen.pop(),
    "optional": lambda self: setattr(self, "maybe", {"a": "x"}),
    "anything but that": lambda self: setattr(self, "anything", object()),
    "anything too large": lambda self: setattr(self, "anything", [2**64]),
    "anything that contains itself": lambda self: _loop(self),
    "event": lambda self: self.emit({"a": "x"}),
    "event that cannot be encoded": lambda self: self.emit({"a": object()}),
    "raises": lambda self: 1 // 0,
    "recursion": lambda self: _recurse(),
    "exit": lambda self: _exit(),
}


def _loop(self):
    inside = []
    inside.append(inside)
    self.anything = inside


def _recurse():
    return _recurse()


def _exit():
    raise SystemExit(1)


class Shop(StateMachine):
    """State of many shapes, and commands that do to it what they should not."""

    event = dict[str, int]

    total: int = 0
    price: float = 0.0
    name: str = ""
    raw: bytes = b""
    best: Point | None = None
    anything: Any = None
    stock: dict[str, int] = {}  # noqa: RUF012
    lists: dict[str, list[int]] = {}  # noqa: RUF012
    log: list[float] = []  # noqa: RUF012
    deep: list[dict[str, set[int]]] = []  # noqa: RUF012
    seen: set[tuple[int, str]] = set()  # noqa: RUF012
    maybe: dict[str, int] | None = None
    rows: Table[str, Point]
    when: float = 0.0

    @command
    def good(self) -> int:
        everything(self)
        self.emit({"total": self.total})
        return self.total

    @command
    def bad(self, how: str, first: bool) -> int:
        if first:
            WRONG[how](self)
        everything(self)
        self.emit({"total": self.total})
        WRONG[how](self)
        return self.total

    @command
    def lie(self) -> int:
        everything(self)
        return "not a number"

    @command
    def lie_at_length(self) -> list[int]:
        everything(self)
        return ["not a number"]

    @command
    def wait(self, when: float) -> None:
        self.when = when

    @query
    def peek(self) -> int:
        self.total += 1
        return self.total

    @query
    def look(self) -> int:
        return self.total

    def due(self) -> float | None:
        return self.when or None

    def on_due(self) -> None:
        everything(self)
        self.emit({"due": 1})
        raise ValueError("nothing is ever done in time")


METHODS = Shop.declaration.methods


def packet(number, *calls):
    methods = [METHODS[name] for name, *_ in calls]
    return Packet(b"c", number, 1, encode_calls(methods, [tuple(rest) for _, *rest in calls]))


def apply(engine, number, *calls, time_s=1):
    batch = Batch(time_s * 10**9, 7, [packet(number, *calls)])
    applied, _ = engine.apply(ENCODE(batch), 1 << 20)
    return decode_outcome(applied[0].outcome)


def whole_state(engine):
    """The state, in the order in which it is held if it has one, and what shows of it."""
    machine = engine.machine
    plain = {name: vars(machine)[name] for name in machine.declaration.plain}
    plain["seen"] = sorted(plain["seen"])
    return ENCODE((plain, dict(machine.rows))), state_digest(engine), engine.emitted


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("how", WRONG)
def test_a_command_that_does_what_was_not_declared_has_changed_nothing(how, first):
    engine, other = Engine(Shop()), Engine(Shop())
    for number in (1, 2):
        apply(engine, number, ("good",))
        apply(other, number, ("good",))
    before = whole_state(engine)
    outcome = apply(engine, 3, ("bad", how, first))
    assert list(outcome.faults) == [0]
    assert whole_state(engine) == before == whole_state(other)
    assert not hasattr(engine.machine, "surprise")
    assert not engine.machine._events
    outcome = apply(engine, 4, ("good",), ("bad", how, first), ("good",))
    assert [msgspec.msgpack.decode(one) for one in outcome.values] == [3, None, 4]
    apply(other, 4, ("good",), ("good",))
    assert whole_state(engine) == whole_state(other)


@pytest.mark.parametrize("how", ["lie", "lie_at_length"])
def test_a_result_that_was_not_declared_is_a_failure_and_changes_nothing(how):
    engine = Engine(Shop())
    before = whole_state(engine)
    assert apply(engine, 1, (how,)).faults[0].kind == "TypeError"
    assert whole_state(engine) == before


def test_what_cannot_happen_by_itself_stops_nobody():
    engine = Engine(Shop())
    apply(engine, 1, ("wait", 2.0))
    before = whole_state(engine)
    for number in (2, 3):
        apply(engine, number, ("look",), time_s=10)  # no command: a fault, and nothing else
        assert whole_state(engine) == before
    apply(engine, 4, ("wait", math.nan), time_s=11)
    assert engine.due() is None
    assert decode_plain_outcome(
        engine.apply(ENCODE(Batch(12 * 10**9, 7, [packet(5, ("good",))])), 99)[0][0].outcome
    ).values == [1]


@pytest.mark.parametrize("leases", [None, {"a": "ten"}, {7: 0.1}, {"\ud800": 0.1}, [("a", 1)]])
def test_leases_that_are_none_stop_nobody(leases, caplog):
    machine = type("Leaseholder", (StateMachine,), {"leases": lambda self: leases})
    assert Engine(machine()).leases() == {}
    assert "Leaseholder.leases: " in caplog.text


def test_a_query_changes_nothing():
    engine = Engine(Shop())
    with pytest.raises(TypeError, match=r"peek\(\) is a query"):
        engine.query(METHODS["peek"], ())
    assert engine.query(METHODS["look"], ()) == 0
    raw = encode_calls([METHODS["peek"], METHODS["look"]], [(), ()])
    values, faults = Shop.declaration.queries.run(engine.machine, raw)
    assert (values, faults[0].kind) == ([None, 0], "TypeError")


# ------------------------------------------------------------ values are what was declared


def test_what_is_put_into_the_state_is_what_a_snapshot_would_bring_back():
    engine = Engine(Shop())
    apply(engine, 1, ("good",))
    machine = engine.machine
    assert (type(machine.price), type(machine.best.y), type(machine.log[0])) == (float,) * 3
    assert machine.anything == {"a": [1, [2, 3]]}


class Keeper(StateMachine):
    lists: dict[str, list[int]] = {}  # noqa: RUF012
    other: list[int] = []  # noqa: RUF012

    @command
    def share(self) -> None:
        mine = [1]
        self.lists["a"] = mine
        self.lists["b"] = mine
        self.other = mine
        mine.append(2)  # it is still the command's

    @command
    def grow(self) -> None:
        self.lists["a"].append(3)


async def test_one_list_in_two_places_is_two_lists_with_and_without_a_snapshot():
    engine = Engine(Keeper())
    methods = Keeper.declaration.methods

    def call(engine, number, name):
        raw = encode_calls([methods[name]], [()])
        engine.apply(ENCODE(Batch(10**9, 7, [Packet(b"c", number, 1, raw)])), 99)

    call(engine, 1, "share")
    assert engine.machine.lists == {"a": [1, 2], "b": [1, 2]}
    again = await restore(Keeper, stream(list(Snapshot(engine).pieces())))
    for one in (engine, again):
        call(one, 2, "grow")
        assert one.machine.lists == {"a": [1, 2, 3], "b": [1, 2]}
        assert one.machine.other == [1, 2]


class Mutable(msgspec.Struct, frozen=True):
    inside: list[int]


def test_what_could_be_changed_unseen_is_refused_when_the_class_is_made():
    class Loose(msgspec.Struct):
        x: int

    for hint in (
        Mutable,
        Loose,
        tuple[list[int], int],
        dict[str, Loose],
        frozenset[tuple[Mutable]],
    ):
        with pytest.raises(BadDeclaration, match="changed in place"):
            declare({"it": None}, it=hint | None if isinstance(hint, type) else hint)
    with pytest.raises(BadDeclaration, match="immutable"):
        declare({}, rows=Table[str, Mutable])
    with pytest.raises(BadDeclaration, match="to begin with"):
        declare({"it": "x"}, it=int)


def declare(body, **annotations):
    return type(
        "Wrong", (StateMachine,), {**body, "__annotations__": annotations, "__module__": __name__}
    )


async def stream(pieces):
    for piece in pieces:
        yield piece


# ------------------------------------------------------------ replay and restore are the same

STEPS = st.lists(
    st.one_of(
        st.just([("good",)]),
        st.tuples(st.just("bad"), st.sampled_from(sorted(WRONG)), st.booleans()).map(lambda c: [c]),
        st.just("snapshot"),
        st.just([("good",), ("bad", "overflow", False), ("good",)]),
        st.just([("wait", 2.0)]),
    ),
    max_size=12,
)


def pieces_in_order(engine):
    """A snapshot's pieces but for the digest of all; a set has no order, so its members get one."""
    pieces = []
    for raw in Snapshot(engine).pieces():
        tag, *rest = msgspec.msgpack.decode(raw)
        if (tag, rest[0]) == ("chunk", "seen"):
            rest[1] = ENCODE(sorted(msgspec.msgpack.decode(rest[1])))
        if tag != "tail":
            pieces.append((tag, rest))
    return pieces


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_state_after_snapshots_is_state_after_replay_to_the_byte(steps):
    """Also what sessions remember: an old packet that comes again has its old outcome."""

    async def run():
        here, there = Engine(Shop()), Engine(Shop())
        number = 0
        for step in steps:
            if step == "snapshot":
                here = await restore(Shop, stream(list(Snapshot(here).pieces())))
                continue
            number += 1
            old = Batch(
                number * 10**9, 7, [packet(number, *step), packet(max(1, number - 2), *step)]
            )
            one, _ = here.apply(ENCODE(old), 1 << 20)
            other, _ = there.apply(ENCODE(old), 1 << 20)
            assert one == other
        assert pieces_in_order(here) == pieces_in_order(there)
        assert whole_state(here) == whole_state(there)

    asyncio.run(run())


# ------------------------------------------------------------ hostile packets, wrong arguments

ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=4),
        st.binary(max_size=4),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=5,
)
READY_MADE = (Counter, Dict, Set, Queue, Lock, KeyValue)
ALL_COMMANDS = [
    (machine, method)
    for machine in READY_MADE
    for method in machine.declaration.methods.values()
    if method.kind == "command"
]
ODD = st.one_of(
    ANYTHING,
    st.sampled_from([2**64, 2**70, -(2**64), "\ud800", float("inf"), float("nan"), object(), {1}]),
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(ALL_COMMANDS), st.lists(st.lists(ANYTHING, max_size=4), max_size=4))
def test_a_packet_with_any_arguments_harms_nobody(what, calls):
    """As an old or a hostile client would send it: nothing was looked at."""
    machine, method = what
    engine = Engine(machine())
    columns = [[call[i] if i < len(call) else None for call in calls] for i in range(4)]
    raw = ENCODE(([(0, len(calls))], [(method.name, *columns)]))
    for number in (1, 2):
        applied, _ = engine.apply(ENCODE(Batch(10**9, 7, [Packet(b"c", number, 1, raw)])), 99)
        outcome = decode_outcome(applied[0].outcome)
        assert outcome.refused or len(outcome.values) == len(calls)
    asyncio.run(restore(machine, stream(list(Snapshot(engine).pieces()))))


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(ALL_COMMANDS), st.lists(ODD, max_size=4))
def test_an_argument_of_another_type_is_refused_before_it_is_sent(what, arguments):
    _, method = what
    sent = []
    call = method.bind(lambda method, arguments: sent.append(arguments))
    try:
        call(*arguments)
    except (TypeError, ValueError, OverflowError):
        return
    (taken,) = sent
    method.decode_arguments([msgspec.Raw(ENCODE(one)) for one in taken])  # all of them fit


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([m for k, m in ALL_COMMANDS if k is KeyValue]),
            st.sampled_from(["a", "b"]),
            st.sampled_from([b"x", b"y", None]),
            st.sampled_from([b"x", b"y", None]),
            st.sampled_from([None, 1.0, 0.0, -1.0, 1e11, float("nan"), float("inf"), 5]),
        ),
        max_size=12,
    )
)
def test_what_the_key_value_store_promises_is_true_its_commands_check_first(calls):
    """It runs without a journal; another class, with one, must come to the same."""

    class Watched(KeyValue):
        pass

    here, there = Engine(KeyValue()), Engine(Watched())
    for number, (method, key, one, other, ttl) in enumerate(calls, 1):
        arguments = {
            "put": (key, one or b"", ttl),
            "delete": (key,),
            "cas": (key, one, other, ttl),
        }[method.name]
        raw = encode_calls([method], [arguments])
        batch = ENCODE(Batch(number * 10**9, 7, [Packet(b"c", number, 1, raw)]))
        assert here.apply(batch, 99)[0] == there.apply(batch, 99)[0]
        assert state_digest(here) == state_digest(there)
        assert here.emitted == there.emitted


# ------------------------------------------------------------ replicas

QUICK = {"tuning": Tuning(audit_s=0.05), "timeout": 20.0}


async def test_replicas_serve_on_and_a_restarted_one_too():
    async with wormspace.connect("memory:") as worm:
        for _ in range(2):
            async with (
                await worm.replicate(Shop, "shop", **QUICK) as shop,
                await worm.replicate(Shop, "shop", **QUICK) as other,
            ):
                before = await shop.look()
                for how in WRONG:
                    with pytest.raises((Exception, WormError)):
                        await shop.bad(how, False)
                assert await other.good() == before + 1
                assert await shop.good() == before + 2
                await asyncio.sleep(0.2)  # audits
                assert (await shop.good(), await other.look()) == (before + 3, before + 3)
                assert (shop.status().failed, other.status().failed) == ("", "")


async def test_a_counter_at_its_end_says_so():
    async with wormspace.connect("memory:") as worm, await worm.replicate(Counter, "n") as counter:
        assert await counter.add(2**64 - 1) == 2**64 - 1
        with pytest.raises(OverflowError):
            await counter.add(2**64 - 1)
        with pytest.raises(OverflowError):
            await counter.add(2**64)
        assert await counter.read() == 2**64 - 1


async def test_what_is_wrong_with_an_argument_is_said_by_its_name():
    async with wormspace.connect("memory:") as worm, await worm.replicate(KeyValue, "kv") as kv:
        with pytest.raises(TypeError, match=r"KeyValue.put\(\), argument 'value'"):
            await kv.put("a", "text")
        with pytest.raises(ValueError, match="surrogates"):
            await kv.put("\ud800", b"")
        with pytest.raises(ValueError, match="centuries"):
            await kv.put("a", b"", ttl_s=1e11)
        assert await kv.put("a", b"") == 1


class Large(StateMachine):
    count: int = 0

    @command
    def give(self, size: int) -> bytes:
        self.count += 1
        return bytes(size)

    @query
    def show(self, size: int) -> list[bytes]:
        return [bytes(1 << 20)] * size


async def test_a_result_too_large_to_travel_is_said_by_its_call_alone():
    async with wormspace.connect("memory:") as worm, await worm.replicate(Large, "it") as it:
        sizes = [1, 5 << 20, 5 << 20, 2, 20 << 20]
        found = await asyncio.gather(*(it.give(n) for n in sizes), return_exceptions=True)
        assert [isinstance(one, ValueError) for one in found] == [False, False, True, False, True]
        assert "too large to travel" in str(found[2])
        assert await it.give(0) == b""
        with pytest.raises(ValueError, match="too large to travel"):
            await it.show(40)
        assert len(await it.show(4)) == 4


async def test_an_object_of_another_class_is_refused_and_the_message_names_both():
    async with wormspace.connect("memory:") as worm:
        async with await worm.replicate(Counter, "hits", leadership=Sticky(0.1)) as counter:
            await counter.add()
        with pytest.raises(ShapeChanged, match=r"'hits' \(a Counter\).*not as Queue declares it"):
            await worm.replicate(Queue, "hits")


async def test_closing_the_connection_closes_its_replicas() -> None:
    async with wormspace.connect("memory:") as worm:
        counter = await worm.replicate(Counter, "n")
        closed = await worm.replicate(Counter, "other")
        await closed.close()
        assert await counter.add(1) == 1
    for replica in (counter, closed):
        with pytest.raises(Closed):
            await replica.add(1)
    await counter.close()
