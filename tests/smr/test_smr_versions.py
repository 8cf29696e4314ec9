"""Versions: old and new classes side by side, and one position at which all become the newer."""

import asyncio
import logging
from datetime import datetime
from types import SimpleNamespace
from typing import Annotated

import msgspec
import pytest
from digests import state_digest
from smr_worlds import Cells, Group, Witness

import wormspace
from wormspace.sim import FaultPlan, FaultSchedule, World
from wormspace.smr import (
    BadDeclaration,
    Fixed,
    Leaderless,
    MemorySnapshots,
    Rotating,
    ShapeChanged,
    StateMachine,
    Sticky,
    Table,
    TrimBehindSnapshots,
    Tuning,
    UpdateNeeded,
    Versions,
    catching_up,
    command,
    query,
)
from wormspace.smr.calls import encode_calls
from wormspace.smr.engine import Engine
from wormspace.smr.kinds import describe
from wormspace.smr.records import Batch, Packet, decode_plain_outcome
from wormspace.smr.snapshots import Snapshot, restore
from wormspace.smr.versions import encode_upgrade
from wormspace.space import Address

ENCODE = msgspec.msgpack.encode


class StockV1(StateMachine):
    left: dict[str, int] = {}  # noqa: RUF012
    rows: Table[str, int]
    gone: str = "soon"

    @command
    def add(self, sku: str, count: int) -> int:
        self.left[sku] = self.left.get(sku, 0) + count
        self.rows[sku] = self.left[sku]
        return self.left[sku]

    @query
    def how_many(self, sku: str) -> int:
        return self.left.get(sku, 0)


class Stock(StateMachine, version=2, replaces=StockV1):
    """`add` does another thing, `left` is another type, `gone` is gone, `reserve` is new."""

    left: dict[str, float] = {}  # noqa: RUF012
    rows: Table[str, int]
    reserved: int = 7

    @command
    def add(self, sku: str, count: int | float) -> float:
        self.left[sku] = self.left.get(sku, 0.0) + 2 * count
        return self.left[sku]

    @command
    def reserve(self, count: int) -> int:
        self.reserved += count
        return self.reserved

    @query
    def how_many(self, sku: str) -> float:
        return self.left.get(sku, 0.0)

    def migrate(self, old: StockV1) -> None:
        self.left.update({sku: float(count) for sku, count in old.left.items()})
        if "poison" in old.left:
            old.left["poison"] = 99
            raise ValueError("this cannot be migrated")


class Stock3(Stock, version=3, replaces=Stock):
    """One attribute and one command more: a subclass is enough."""

    note: str = ""

    @command
    def say(self, note: str) -> str:
        self.note = note
        return self.note


class Changed(StateMachine):
    """Version 1 again, but not what it was."""

    left: dict[str, int] = {}  # noqa: RUF012
    rows: Table[str, int]
    gone: str = "soon"
    extra: int = 0

    @command
    def add(self, sku: str, count: int) -> int:
        return 0


# ------------------------------------------------------------ the engine


def apply(engine, number, commands):
    packet = Packet(b"c", number, 1, commands)
    applied, _ = engine.apply(ENCODE(Batch(number * 10**9, 7, [packet])), 64)
    return decode_plain_outcome(applied[0].outcome)


def add(engine, number, machine, sku, count):
    raw = encode_calls([machine.declaration.methods["add"]], [(sku, count)])
    return apply(engine, number, raw)


def history(engine):
    """Some commands, the upgrade, and some more."""
    add(engine, 1, StockV1, "a", 3)
    apply(engine, 2, encode_upgrade(Stock))
    add(engine, 3, Stock, "a", 1.5)
    return engine


def test_what_comes_before_the_upgrade_is_run_by_the_old_class_and_what_follows_by_the_new():
    engine = Engine(StockV1(), Stock)
    assert add(engine, 1, StockV1, "a", 3).values == [3]
    assert apply(engine, 2, encode_upgrade(Stock)).values == [2]
    assert add(engine, 3, Stock, "a", 1.5).values == [6.0]
    machine = engine.machine
    assert type(machine) is Stock
    assert (machine.left, dict(machine.rows), machine.reserved) == ({"a": 6.0}, {"a": 3}, 7)
    assert not hasattr(machine, "gone")
    assert state_digest(engine) == state_digest(history(Engine(StockV1(), Stock)))


def test_two_versions_at_once_are_one_step():
    engine = Engine(StockV1(), Stock3)
    add(engine, 1, StockV1, "a", 3)
    assert apply(engine, 2, encode_upgrade(Stock3)).values == [3]
    assert (type(engine.machine), engine.machine.left, engine.machine.note) == (
        Stock3,
        {"a": 3.0},
        "",
    )


def test_an_upgrade_that_comes_again_or_late_changes_nothing():
    engine = history(Engine(StockV1(), Stock3))
    before = state_digest(engine)
    assert apply(engine, 4, encode_upgrade(Stock)).values == [2]
    assert state_digest(engine) == before


def test_a_migration_that_fails_leaves_the_object_as_it_was_everywhere():
    engine, other = Engine(StockV1(), Stock), Engine(StockV1(), Stock3)
    for one in (engine, other):
        add(one, 1, StockV1, "poison", 3)
        outcome = apply(one, 2, encode_upgrade(Stock))
        assert outcome.faults[0].kind == "ValueError"
        assert type(one.machine) is StockV1
        assert one.machine.left == {"poison": 3}, "what the migration had changed is undone"
        assert add(one, 3, StockV1, "b", 1).values == [1]
    assert (engine.chain, state_digest(engine)) == (other.chain, state_digest(other))


def test_an_old_replica_says_what_to_do_and_one_with_another_shape_says_what_differs():
    with pytest.raises(UpdateNeeded, match=r"version 2.*up to 1.*update this replica"):
        history(Engine(StockV1()))
    other = encode_upgrade(type("Other", (Stock,), {}, version=2, replaces=StockV1))
    assert apply(Engine(StockV1(), Stock), 1, other).values == [2], "a class may change its name"
    with pytest.raises(ShapeChanged, match=r"note: str = .* there, nothing here"):
        apply(Engine(StockV1(), Stock), 1, _of_version_2(Stock3))


def _of_version_2(machine_type):
    raw = msgspec.msgpack.decode(encode_upgrade(machine_type)[1:])
    return b"\xc1" + ENCODE([2, raw[1]])


def test_a_packet_that_only_begins_as_an_upgrade_is_refused():
    engine = Engine(StockV1(), Stock)
    assert "malformed" in apply(engine, 1, b"\xc1garbage").refused
    assert "malformed" in apply(engine, 2, b"\xc1").refused


async def stream(pieces):
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("newest", [Stock, Stock3])
async def test_a_snapshot_before_and_one_after_lead_to_the_same(newest):
    before = Engine(StockV1(), StockV1)
    add(before, 1, StockV1, "a", 3)
    engine = await restore(newest, stream(list(Snapshot(before).pieces())))
    assert type(engine.machine) is StockV1
    apply(engine, 2, encode_upgrade(Stock))
    engine = await restore(newest, stream(list(Snapshot(engine).pieces())))
    assert type(engine.machine) is Stock
    add(engine, 3, Stock, "a", 1.5)
    other = history(Engine(StockV1(), Stock))
    assert list(Snapshot(engine).pieces()) == list(Snapshot(other).pieces())


async def test_a_snapshot_of_a_newer_version_is_refused_and_says_so():
    pieces = list(Snapshot(history(Engine(StockV1(), Stock))).pieces())
    with pytest.raises(UpdateNeeded, match="update this replica"):
        await restore(StockV1, stream(pieces))
    with pytest.raises(ShapeChanged, match="extra: nothing there"):
        await restore(Changed, stream(list(Snapshot(Engine(StockV1())).pieces())))


# ------------------------------------------------------------ declarations


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_version_is_the_next_one_after_that_which_it_replaces(version):
    """Two replicas that got to version 4 over 2 and 3, and over 3 alone, would go apart."""
    with pytest.raises(BadDeclaration, match="one by one"):
        type("Wrong", (Stock,), {}, version=version, replaces=Stock)


def test_a_version_is_a_whole_number():
    with pytest.raises(BadDeclaration, match="whole number"):
        type("Wrong", (StateMachine,), {}, version=0)


def test_what_is_declared_shows_in_the_shape_and_the_bodies_do_not():
    def declared(body=lambda self, n: n, *, kind=int, first=1, hint=int):
        body.__annotations__ = {"n": kind, "return": int}
        members = {"__annotations__": {"a": hint}, "a": first, "do": command(body)}
        members["__module__"] = __name__
        return type("One", (StateMachine,), members).declaration.shape

    same = declared()
    assert declared(lambda self, n: n + 1) == same
    for other in (declared(kind=str), declared(first=2), declared(hint=int | str)):
        assert other != same
    for numbers in (iter(range(9)), iter(range(9, 0, -1))):
        with pytest.raises(BadDeclaration, match="not the same each time"):
            declared(first=msgspec.field(default_factory=lambda each=numbers: next(each)))


@pytest.mark.parametrize(
    ("hint", "bounded"),
    [
        (int, Annotated[int, msgspec.Meta(ge=0)]),
        (int, Annotated[int, msgspec.Meta(gt=0)]),
        (float, Annotated[float, msgspec.Meta(le=0.0)]),
        (str, Annotated[str, msgspec.Meta(max_length=0)]),
        (datetime, Annotated[datetime, msgspec.Meta(tz=False)]),
        (
            msgspec.defstruct("Point", ["x"], frozen=True),
            msgspec.defstruct("Point", ["x"], frozen=True, tag=0),
        ),
    ],
)
def test_bounds_show_in_the_shape_also_where_they_are_zero(hint, bounded):
    assert describe(msgspec.inspect.type_info(hint)) != describe(msgspec.inspect.type_info(bounded))


class Price(StateMachine):
    price: int = 7

    @command
    def put(self, price: int, note: str = "") -> int:
        self.price = price
        return self.price


class PriceInCents(Price, version=2, replaces=Price):
    def migrate(self, old: Price) -> None:
        self.price = 100 * old.price


class PriceWithTax(PriceInCents, version=3, replaces=PriceInCents):
    tax: int = 19


def test_a_migration_that_is_inherited_is_not_run_again():
    for steps in ((PriceInCents, PriceWithTax), (PriceWithTax,)):
        engine = Engine(Price(), PriceWithTax)
        for number, machine in enumerate(steps, 1):
            apply(engine, number, encode_upgrade(machine))
        assert (engine.machine.price, engine.machine.tax) == (700, 19)


class Row(msgspec.Struct, frozen=True):
    count: int


class LongerRow(Row, frozen=True):
    note: str = ""


class Rows(StateMachine):
    rows: Table[str, Row]


def declared(base, **hints):
    return type("New", (base,), {"__annotations__": hints}, version=2, replaces=base)


def test_what_nobody_converts_is_not_dropped_in_silence():
    with pytest.raises(BadDeclaration, match=r"New.rows is .*LongerRow.*write a `migrate`"):
        declared(Rows, rows=Table[str, LongerRow])
    with pytest.raises(BadDeclaration, match=r"New.price is float, and was int in Price"):
        declared(Price, price=float)


@pytest.mark.parametrize("order", ["note: str, price: int", "price: int, extra: int, note: str"])
def test_an_argument_that_two_versions_have_keeps_its_place(order):
    made = {}
    exec(f"def put(self, {order}) -> int: ...", made)
    with pytest.raises(BadDeclaration, match=r"New.put: argument .* another place than in Price"):
        type("New", (Price,), {"put": command(made["put"])}, version=2, replaces=Price)


# ------------------------------------------------------------ replicas

QUICK = {"leadership": Sticky(0.1), "timeout": 5.0}
BY_CALL = Tuning(upgrade_s=0)


async def stopped(replica):
    while not replica.status().failed:  # noqa: ASYNC110 - nobody is told
        await asyncio.sleep(0.01)


async def reached(replica, version):
    while (await replica.versions()).current < version:  # noqa: ASYNC110 - nobody is told
        await asyncio.sleep(0.05)


async def test_an_object_is_upgraded_by_a_call_and_serves_old_and_new_calls():
    async with wormspace.connect("memory:") as worm:
        async with await worm.replicate(StockV1, "stock", **QUICK) as old:
            await old.add("a", 3)
        async with await worm.replicate(Stock, "stock", tuning=BY_CALL, **QUICK) as new:
            with pytest.raises(TypeError, match="StockV1 has no 'reserve'"):
                await new.reserve(1)
            assert await new.add("a", 1) == 4, "still the body of version 1"
            versions = await new.versions()
            assert (versions.oldest, versions.current, versions.newest) == (1, 1, 2)
            assert await new.upgrade() == 2
            assert await new.upgrade() == 2
            assert await new.add("a", 1) == 6.0
            assert await new.reserve(1) == 8
            assert (await new.versions()).current == 2
        async with await worm.replicate(StockV1, "stock", **QUICK) as old:
            with pytest.raises(UpdateNeeded):
                await old.add("a", 1)
        async with await worm.replicate(Stock, "stock", **QUICK) as again:
            assert await again.how_many("a") == 6.0, "what came before was run by the old class"


@pytest.mark.parametrize("new_leads", [True, False])
async def test_a_replica_that_is_left_behind_stops_and_goes_on_with_the_new_class(new_leads):
    async with wormspace.connect("memory:") as worm:
        async with await worm.replicate(StockV1, "stock", **QUICK) as first:
            await first.add("b", 1)
        classes = {"one": Stock if new_leads else StockV1, "two": StockV1 if new_leads else Stock}
        replicas = {}
        for name, machine in classes.items():  # the first one leads
            replicas[name] = await worm.replicate(
                machine, "stock", replica=name, tuning=BY_CALL, **QUICK
            )
            await replicas[name].add("a", 1)
        old, new = sorted(replicas, key=lambda name: classes[name] is Stock)
        try:
            async with asyncio.timeout(10):
                assert await replicas[new].upgrade() == 2
                await stopped(replicas[old])
            assert "update this replica" in replicas[old].status().failed
            with pytest.raises(UpdateNeeded):
                await replicas[old].add("a", 1)
            await replicas[old].close()
            replicas[old] = await worm.replicate(Stock, "stock", replica=old, **QUICK)
            assert await replicas[old].add("a", 1) == 4.0
            assert await replicas[old].how_many("a") == await replicas[new].how_many("a")
        finally:
            for replica in replicas.values():
                await replica.close()


async def test_once_a_segment_was_begun_by_the_newer_version_the_older_cannot_even_start():
    async with wormspace.connect("memory:") as worm:
        for machine in (StockV1, Stock, Stock):
            options = {"tuning": BY_CALL, **QUICK}
            async with await worm.replicate(machine, "stock", **options) as replica:
                await replica.add("a", 1)
                await replica.upgrade()
        with pytest.raises(UpdateNeeded, match="update this replica"):
            await worm.replicate(StockV1, "stock", **QUICK)


async def test_a_class_that_changed_without_a_version_is_refused_at_the_start():
    async with wormspace.connect("memory:") as worm:
        async with await worm.replicate(StockV1, "stock", **QUICK) as old:
            await old.add("a", 1)
        with pytest.raises(ShapeChanged, match="extra: nothing there"):
            await worm.replicate(Changed, "stock", **QUICK)


async def test_the_leader_upgrades_when_all_who_are_alive_have_the_newer_class():
    async with wormspace.connect("memory:") as worm:
        tuning = Tuning(upgrade_s=0.5)
        options = {"tuning": tuning, **QUICK}
        async with await worm.replicate(StockV1, "stock", replica="old", **options) as old:
            await old.add("a", 1)
            async with await worm.replicate(Stock, "stock", replica="new", **options) as new:
                await asyncio.sleep(0.1)
                assert (await new.versions()).current == 1
                await old.close()
                async with asyncio.timeout(20):
                    await reached(new, 2)
                assert await new.add("a", 1) == 3.0


class NeverMigrates(Price, version=2, replaces=Price):
    def migrate(self, old: Price) -> None:
        raise type("Elsewhere", (Exception,), {})("no")


async def test_a_migration_that_fails_is_said_and_not_tried_again_and_again(caplog):
    async with wormspace.connect("memory:") as worm:
        async with await worm.replicate(Price, "price", **QUICK) as old:
            await old.put(3)
        async with await worm.replicate(NeverMigrates, "price", tuning=BY_CALL, **QUICK) as new:
            async with asyncio.timeout(10):
                await new._core.upgrades.run(0.05)
            assert await new.put(4) == 4
    assert "the upgrade to version 2 has failed: Elsewhere: no" in caplog.text


async def test_before_an_object_has_begun_it_is_of_the_newest_version():
    async with wormspace.connect("memory:") as worm:
        options = {**QUICK, "leadership": Fixed("bob")}
        async with await worm.replicate(PriceInCents, "p", replica="ann", **options) as ann:
            assert await ann.versions() == Versions(2, 2, 2)


async def test_a_snapshot_of_a_forgotten_version_is_passed_over_for_another_replicas(monkeypatch):
    kept = {}
    for name, steps in {"far behind": (), "up to date": (PriceInCents,)}.items():
        engine = Engine(Price(), PriceInCents)
        for number, machine in enumerate(steps, 1):
            apply(engine, number, encode_upgrade(machine))
        engine.position = Address(3, 0)
        kept[name] = list(Snapshot(engine).pieces())

    async def known(context):
        return list(kept)

    async def identify():
        return b""

    class OnlyNew(StateMachine, version=2):
        price: int = 7

        @command
        def put(self, price: int, note: str = "") -> int:
            return price

    monkeypatch.setattr(catching_up, "_known", known)
    monkeypatch.setattr(catching_up, "_fetch", lambda context, member: stream(kept[member]))
    async with wormspace.connect("memory:") as worm:
        space = worm.space("price")
        for _ in range(4):
            await space.alloc()
        await space.trim_prefix(3)
        engine = Engine(OnlyNew())
        learner = SimpleNamespace(position=Address(0, 0), identify=identify, engine=engine)
        learner.install = lambda engine: setattr(learner, "position", engine.position)
        loop = asyncio.get_running_loop()
        await catching_up.catch_up(SimpleNamespace(space=space, loop=loop, learner=learner), None)
        assert learner.position == Address(3, 0)


# ------------------------------------------------------------ the simulated world


class Cells2(StateMachine, version=2, replaces=Cells):
    """The same to whoever looks; kept in another way."""

    held: Table[str, tuple[str, int]]

    @command
    def put(self, key: str, value: str) -> None:
        self.held[key] = (value, len(value))

    @command
    def append(self, key: str, text: str) -> None:
        self.put(key, self.held.get(key, ("", 0))[0] + text)

    @command
    def delete(self, key: str) -> None:
        self.held.pop(key, None)

    @command
    def cas(self, key: str, old: str | None, new: str) -> bool:
        if self.held.get(key, (None, 0))[0] != old:
            return False
        self.put(key, new)
        return True

    @query
    def get(self, key: str) -> str | None:
        return self.held.get(key, (None, 0))[0]

    def migrate(self, old: Cells) -> None:
        self.held.update({key: (value, len(value)) for key, value in old.cells.items()})


@pytest.mark.parametrize("leadership", [Sticky(30.0), Rotating(0.5), Leaderless()])
def test_an_object_is_not_upgraded_while_a_replica_that_is_alive_is_older(leadership):
    """However short the time is that was set: replicas greet one another once a second."""
    logging.getLogger("wormspace").setLevel(logging.CRITICAL)
    with World(3) as world:
        options = {"tuning": Tuning(upgrade_s=0.2), "leadership": leadership}
        group = Rolling(world, Cells, options=lambda name: options, replicas=2)

        async def drive():
            group.start_servers()
            group.start_replicas()
            await group.all_started()
            old, new = group.names
            await group.replicas[old].put("a", "b")  # this one leads, where one does
            await group.replicas[new].put("a", "b")
            if isinstance(leadership, Sticky):
                old, new = new, old
            group.restart(new)
            while new not in group.replicas:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.1)
            await asyncio.sleep(10.0)
            assert not group.replicas[old].status().failed
            assert type(group.replicas[new]._core.learner.engine.machine) is Cells
            group.restart(old)
            await asyncio.sleep(60.0)
            machines = [one._core.learner.engine.machine for one in group.replicas.values()]
            assert [type(machine) for machine in machines] == [Cells2, Cells2]

        world.run(drive(), deadline_s=300)


class Rolling(Group):
    """Replicas that are started with the newer class from their second life on."""

    async def _live(self, name):
        self.machine = Cells2 if self.lives.get(name, 0) else Cells
        await super()._live(name)

    async def roll(self, rng):
        """Restart one after the other; and whoever was left behind."""
        for name in self.world.random_for("order").sample(self.names, len(self.names)):
            await asyncio.sleep(rng.uniform(0.3, 1.5))
            self.restart(name)
        while True:
            await asyncio.sleep(0.2)
            for name, replica in list(self.replicas.items()):
                if "update this replica" in replica.status().failed:
                    self.restart(name)

    def restart(self, name):
        self.replicas.pop(name, None)
        self.world.host(name).processes[-1].crash()
        self.start_replica(name)


SEEDS = [0, 1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))]


@pytest.mark.parametrize("seed", SEEDS)
def test_rolling_upgrades_in_worlds_with_faults(seed):
    """States are equal wherever positions are, history is linearizable, and all end up newer."""
    logging.getLogger("wormspace").setLevel(logging.CRITICAL)
    with World(seed) as world, Witness() as witness:
        rng = world.random_for("rolling")
        options = {
            "tuning": Tuning(segment_size=8, audit_s=0.5, upgrade_s=1.5),
            "durability": TrimBehindSnapshots(MemorySnapshots(), registers=10, every_s=0.1),
        }
        if seed % 2:
            del options["durability"]
        group = Rolling(world, Cells, options=lambda name: options)
        plan = FaultPlan(kinds=("cut", "reset", "slow", "pause"), every_s=(0.2, 1.0))
        servers = FaultSchedule(world, plan, group.servers, group.names)

        async def drive():
            group.start_servers()
            group.start_replicas(group.work)
            await group.all_started()
            servers.start()
            rolling = asyncio.ensure_future(group.roll(rng))
            await asyncio.sleep(12.0)
            servers.stop()
            await asyncio.sleep(6.0)
            rolling.cancel()
            await group.settle()
            for replica in group.replicas.values():
                assert type(replica._core.learner.engine.machine) is Cells2

        world.run(drive(), deadline_s=300)
        witness.check()
        group.check()
        assert group.answered > 100
