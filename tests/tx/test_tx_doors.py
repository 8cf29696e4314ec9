"""Whatever is passed to a public call is checked there: a clear error, and all else goes on."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import wormspace
from wormspace import tx
from wormspace.errors import Closed, UsageError, WormError
from wormspace.store.memory_engine import MemoryEngine
from wormspace.tx import trimming, viewing
from wormspace.tx.mariadb import MariaDb
from wormspace.tx.names import NAME_MAX
from wormspace.tx.opening import open_manager
from wormspace.tx.postgres import Postgres
from wormspace.tx.trimming import retire
from wormspace.tx.viewing import look, look_at

MARIADB = "mysql://u@127.0.0.1:1/d"

ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 2**64, -1, 10**30])
    | st.floats()
    | st.text(max_size=30)
    | st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF), min_size=1, max_size=3)
    | st.binary(max_size=200)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.none(), max_size=1)
    | st.builds(object)
)


def is_name(x: object) -> bool:
    letters = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")
    return isinstance(x, str) and 0 < len(x) <= NAME_MAX and set(x) <= letters


def is_seconds(x: object) -> bool:
    return type(x) in (int, float) and 0 < x <= 10**9


def is_empty(x: object) -> bool:
    return isinstance(x, list | dict) and not x


def is_key(x: object) -> bool:
    return type(x) is bytes and 0 < len(x) <= 127


class Doors:
    """Each public call with one argument replaced, and which values of it are right."""

    def __init__(self, worm, site, store, remote) -> None:
        self.worm, self.site, self.store, self.remote = worm, site, store, remote
        self.calls = {
            "participants": (self.begin, lambda x: False),
            "participant": (lambda x: self.begin([x]), lambda x: False),
            "variant": (
                lambda x: self.begin([store], variant=x),
                lambda x: isinstance(x, str) and x in tx.VARIANTS,
            ),
            "timeout": (lambda x: self.begin([store], timeout=x), is_seconds),
            "tm": (lambda x: self.begin([store], tm=x), lambda x: isinstance(x, str)),
            "space": (self.in_space, is_name),
            "session": (self.session, lambda x: False),
            "key": (lambda x: self.work("put", x, b"v"), is_key),
            "value": (lambda x: self.work("put", b"k", x), lambda x: type(x) is bytes),
            "get": (lambda x: self.work("get", x), is_key),
            "delete": (lambda x: self.work("delete", x), is_key),
            "remote key": (lambda x: self.work("put", x, b"v", far=True), is_key),
            "remote value": (
                lambda x: self.work("put", b"k", x, far=True),
                lambda x: type(x) is bytes,
            ),
            "settle": (lambda x: site.settle(x, ["a"]), lambda x: False),
            "settle whom": (lambda x: site.settle(tx.TxId("j", 0), x), lambda x: False),
            "settle number": (lambda x: site.settle(tx.TxId("j", x), ["a"]), self.is_number),
            "settle initiator": (lambda x: site.settle(tx.TxId(x, 0), ["a"]), is_name),
            "settle timeout": (
                lambda x: site.settle(tx.TxId("j", 0), ["a"], timeout=x),
                is_seconds,
            ),
            "recover": (site.recover, lambda x: x is None or is_seconds(x) or self.is_zero(x)),
            "site": (self.make_site, is_name),
            "patience": (lambda x: self.make_site("tx", patience_s=x), is_seconds),
            "start": (lambda x: self.start(x, 0), lambda x: None if isinstance(x, str) else False),
            "port": (lambda x: self.start("127.0.0.1", x), lambda x: x == 0 and type(x) is int),
            "store": (lambda x: tx.KeyValueStore.open(x, MemoryEngine()), is_name),
            "store engine": (lambda x: tx.KeyValueStore.open("a", x), lambda x: False),
            "store dice": (
                lambda x: tx.KeyValueStore.open("a", MemoryEngine(), x),
                lambda x: x is None,
            ),
            "remote": (lambda x: self.soon(tx.RemoteStore, x, "h:1"), is_name),
            "address": (lambda x: self.soon(tx.RemoteStore, "a", x), lambda x: False),
            "postgres": (lambda x: self.soon(Postgres, x, ""), is_name),
            "conninfo": (lambda x: self.soon(Postgres, "a", x), lambda x: x == ""),
            "mariadb": (lambda x: self.soon(MariaDb, "a", x), lambda x: False),
            "pool": (
                lambda x: self.soon(lambda p: Postgres("a", "", pool=p), x),
                lambda x: x is None or (type(x) is int and x > 0),
            ),
            "open": (lambda x: self.soon(open_manager, "a", x), lambda x: False),
            "txid": (lambda x: self.soon(tx.TxId.parse, x), lambda x: False),
            "worm participants": (self.worm_begin, lambda x: False),
            "worm variant": (
                lambda x: self.worm_begin([store], variant=x),
                lambda x: isinstance(x, str) and x in tx.VARIANTS,
            ),
            "worm timeout": (lambda x: self.worm_begin([store], timeout=x), is_seconds),
            "worm site": (self.worm_site, is_name),
            "look": (lambda x: look(worm, x), is_name),
            "look client": (lambda x: look(x, "tx"), lambda x: False),
            "look timeout": (lambda x: look(worm, "tx", timeout=x), self.is_timeout),
            "look at": (lambda x: look_at(worm, "tx", x), lambda x: False),
            "look at space": (lambda x: look_at(worm, x, tx.TxId("j", 0)), is_name),
            "look at client": (lambda x: look_at(x, "tx", tx.TxId("j", 0)), lambda x: False),
            "look at timeout": (
                lambda x: look_at(worm, "tx", tx.TxId("j", 0), timeout=x),
                self.is_timeout,
            ),
            "retire": (lambda x: self.retire(space=x), is_name),
            "retire client": (lambda x: self.retire(client=x), lambda x: False),
            "retire resolver": (lambda x: self.retire(resolver=x), lambda x: False),
            "retire managers": (lambda x: self.retire(managers=x), lambda x: x == {}),
            "retire manager": (lambda x: self.retire(managers={"a": x}), lambda x: False),
            "retire before": (
                lambda x: self.retire(before=x),
                lambda x: type(x) in (int, float) and x == x,
            ),
            "retire timeout": (lambda x: self.retire(timeout=x), is_seconds),
            "run": (lambda x: worm.run_transaction(x, self.nothing), lambda x: False),
            "run work": (lambda x: self.run(work=x), lambda x: False),
            "run variant": (lambda x: self.run(variant=x), lambda x: False),
            "run space": (lambda x: self.run(space=x), is_name),
            "run rng": (lambda x: self.run(rng=x), lambda x: x is None),
            "site client": (lambda x: self.soon(tx.Site, x), lambda x: False),
            "site managers": (lambda x: self.make_site("tx", managers=x), is_empty),
            "idle": (lambda x: self.make_site("tx", idle_s=x), is_seconds),
            "clock": (lambda x: self.make_site("tx", clock=x), lambda x: False),
            "on_decision": (lambda x: self.make_site("tx", on_decision=x), lambda x: x is None),
            "open timeout": (lambda x: site.open(x), is_seconds),
            "own address": (lambda x: self.start("127.0.0.1", 0, address=x), lambda x: x == ""),
            "attach": (lambda x: self.soon(site.attach, x), lambda x: False),
            "detach": (lambda x: self.soon(site.detach, x), lambda x: False),
            "manager": (lambda x: self.soon(site.host.manager, x), lambda x: False),
            "left alone": (
                lambda x: self.soon(site.left_alone, x),
                lambda x: x is None or is_seconds(x) or self.is_zero(x),
            ),
            "postgres timeout": (
                lambda x: self.soon(lambda t: Postgres("a", "", timeout=t), x),
                is_seconds,
            ),
            "mariadb name": (lambda x: self.soon(MariaDb, x, MARIADB), is_name),
            "mariadb pool": (
                lambda x: self.soon(lambda p: MariaDb("a", MARIADB, pool=p), x),
                lambda x: x is None or (type(x) is int and x > 0),
            ),
            "mariadb timeout": (
                lambda x: self.soon(lambda t: MariaDb("a", MARIADB, timeout=t), x),
                is_seconds,
            ),
            "connect rng": (
                lambda x: self.connect(rng=x),
                lambda x: x is None,
            ),
            "run timeout": (lambda x: self.run(timeout=x), is_seconds),
        }

    def is_number(self, x: object) -> bool:
        return type(x) is int and 0 <= x < 10**18

    def is_timeout(self, x: object) -> bool:
        return x is None or is_seconds(x)

    def is_zero(self, x: object) -> bool:
        return type(x) in (int, float) and x == 0

    async def nothing(self, t) -> None:
        pass

    async def soon(self, call, *arguments) -> None:
        call(*arguments)

    async def begin(self, participants, **options) -> None:
        async with tx.Transaction(self.site, participants, **options):
            pass

    async def in_space(self, space) -> None:
        async with self.worm.transaction([self.store], space=space):
            pass

    async def worm_begin(self, participants, **options) -> None:
        async with self.worm.transaction(participants, **options):
            pass

    async def worm_site(self, space) -> None:
        self.worm.site(space)

    async def retire(self, **wrong) -> None:
        given = {"client": self.worm, "space": "tx", "resolver": self.site.host.resolver}
        given |= {"managers": {}, "before": 1.0, **wrong}
        await retire(**given)

    async def session(self, x) -> None:
        async with tx.Transaction(self.site, [self.store]) as t:
            t[x]

    async def work(self, what: str, *arguments, far: bool = False) -> None:
        participant = self.remote if far else self.store
        async with tx.Transaction(self.site, [participant]) as t:
            await getattr(t[participant], what)(*arguments)

    async def make_site(self, space, **options) -> None:
        await tx.Site(self.worm, space=space, **options).close()

    async def start(self, host, port, **options) -> None:
        site = tx.Site(self.worm)
        try:
            await site.start(host, port, **options)
        finally:
            await site.close()

    async def run(self, **options) -> None:
        await self.worm.run_transaction([self.store], **{"work": self.nothing} | options)

    async def connect(self, **options) -> None:
        async with wormspace.connect("memory:", **options):
            pass

    async def serves_on(self) -> None:
        async with tx.Transaction(self.site, [self.store]) as t:
            await t[self.store].put(b"still", b"here")
        assert self.store.value(b"still") == b"here"


async def knock(values: list[object], name: str) -> None:
    async with wormspace.connect("memory:") as worm:
        store = await tx.KeyValueStore.open("a", MemoryEngine())
        far = await tx.KeyValueStore.open("far", MemoryEngine())
        site, there = tx.Site(worm), tx.Site(worm, managers=[far])
        remote = tx.RemoteStore("far", await there.start("127.0.0.1"))
        doors = Doors(worm, site, store, remote)
        call, is_right = doors.calls[name]
        for value in values:
            error: Exception | None = None
            try:
                await call(value)
            except WormError as e:
                error = e
            # What is right may still fail, but not as the caller's mistake.
            refused = isinstance(error, UsageError)
            right = is_right(value)  # None: either
            assert right is None or refused != right, f"{name} = {value!r}: {error!r}"
        await doors.serves_on()
        for each in (site, there):
            await each.close()
        await remote.close()
        for each in (store, far):
            await each.close()


NAMES = list(Doors(*[type("", (), {"settle": 0, "recover": 0, "resolver": 0})()] * 4).calls)


CALLED_BY_USERS = {
    tx.Transaction: {"__init__": ("", "participants", "variant", "timeout", "tm")},
    tx.Site: {
        "__init__": (
            *("site client", "site", "site managers", "patience", "idle", "clock"),
            "on_decision",
        ),
        "open": ("open timeout",),
        "start": ("start", "port", "own address"),
        "attach": ("attach",),
        "detach": ("detach",),
        "settle": ("settle", "settle whom", "settle timeout"),
        "recover": ("recover",),
        "left_alone": ("left alone",),
    },
    tx.RemoteStore: {"__init__": ("remote", "address")},
    tx.KvBranch: {"get": ("get",), "put": ("key", "value"), "delete": ("delete",)},
    Postgres: {"__init__": ("postgres", "conninfo", "pool", "postgres timeout")},
    MariaDb: {"__init__": ("mariadb name", "mariadb", "mariadb pool", "mariadb timeout")},
    wormspace.Worm: {
        "transaction": ("worm participants", "worm variant", "worm timeout", "space"),
        "run_transaction": (
            *("run", "run work", "run variant", "run timeout", "run space", "run rng"),
        ),
        "site": ("worm site",),
    },
    viewing: {
        "look": ("look client", "look", "look timeout"),
        "look_at": ("look at client", "look at space", "look at", "look at timeout"),
    },
    trimming: {
        "retire": (
            *("retire client", "retire", "retire resolver", "retire managers", "retire before"),
            "retire timeout",
        )
    },
}
"""The case for each argument, in order; "" for what only the package itself passes."""

BETWEEN_PARTS = {
    tx.Transaction: {"plan_now", "is_conflict"},
    tx.Site: {
        *("gid", "leave_segment", "hold", "held", "take", "take_part", "call", "spawn"),
        "recognise",
    },
    tx.RemoteStore: {"belong_to", "session"},
    tx.KvBranch: {"operate"},
    MariaDb: {"hold"},
    wormspace.Worm: {"log", "replicate", "attach"},  # see test_log_door and test_smr_doors
}
"""Methods with arguments that the parts of the package call on each other."""

MANAGERS = {"identity", "begin", "commit", "abort", "is_conflict"}
"""The methods of a `ResourceManager`, which the site calls."""


def test_every_argument_of_every_call_for_users_is_passed_wrong_ones() -> None:
    for owner, calls in CALLED_BY_USERS.items():
        for name, doors in calls.items():
            given = [p for p in inspect.signature(getattr(owner, name)).parameters if p != "self"]
            assert len(given) == len(doors), f"{owner}.{name}{given}: add a case to `Doors`"
            assert {*doors} - {""} <= {*NAMES}
        if inspect.ismodule(owner):
            continue
        public = {n for n in vars(owner) if not n.startswith("_") and callable(vars(owner)[n])}
        takes = {n for n in public if len(inspect.signature(getattr(owner, n)).parameters) > 1}
        known = {*calls} | BETWEEN_PARTS.get(owner, set()) | MANAGERS
        assert takes <= known, f"{owner}: add cases for {takes - known} to `Doors`"


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(values=st.lists(ANYTHING, min_size=12, max_size=30))
def test_a_wrong_argument_is_an_error_of_the_caller(name: str, values: list[object]) -> None:
    asyncio.run(knock(values, name))


async def test_a_transaction_is_used_once_and_inside_its_block() -> None:
    async with wormspace.connect("memory:") as worm:
        store, other = [await tx.KeyValueStore.open("a", engine) for engine in 2 * [MemoryEngine()]]
        t = worm.transaction([store])
        with pytest.raises(UsageError, match="async with"):
            t[store]
        with pytest.raises(UsageError, match="async with"):
            await t.commit()
        async with t:
            with pytest.raises(UsageError, match="takes no part"):
                t[other]
            await t[store].put(b"k", b"v")
        with pytest.raises(UsageError, match="begun before"):
            await t.__aenter__()
        assert (await t.commit()).committed, "said again"
        with pytest.raises(UsageError, match="called 'a'"):
            async with worm.transaction([other]):
                pass
        worm.site().detach(store)
        async with worm.transaction([other]) as t:
            await t[other].put(b"k", b"w")
        for each in (store, other):
            await each.close()


async def test_a_class_is_not_taken_for_a_resource_manager() -> None:
    async with wormspace.connect("memory:") as worm:
        for kind in (Postgres, MariaDb, tx.KeyValueStore, tx.RemoteStore):
            with pytest.raises(UsageError, match="is a class"):
                worm.transaction([kind])


async def test_a_closed_site_begins_nothing_and_says_so() -> None:
    """Nothing was sent, so nothing is unknown."""
    async with wormspace.connect("memory:") as worm:
        store = await tx.KeyValueStore.open("a", MemoryEngine())
        for opened in (True, False):
            site = tx.Site(worm)
            if opened:
                await site.open()
            begun = tx.Transaction(site, [store])
            await begun.__aenter__()
            await site.close()
            calls = (
                tx.Transaction(site, [store]).__aenter__,
                begun.commit,
                site.open,
                site.recover,
                lambda site=site: site.start("127.0.0.1"),
                lambda site=site: site.settle(tx.TxId("j", 0), ["a"]),
            )
            for call in calls:
                async with asyncio.timeout(2):
                    with pytest.raises(Closed):
                        await call()
            with pytest.raises(Closed):
                site.attach(store)
        await store.close()


def test_a_password_is_in_no_message(tmp_path: Path) -> None:
    for url in ("mysql://u:secret@h:99999/d", "http://u:secret@h/d", "mysql://u:secret@h:x/d"):
        with pytest.raises(UsageError) as caught:
            MariaDb("a", url)
        assert "secret" not in str(caught.value)
        with pytest.raises(UsageError) as caught:
            open_manager("a", url)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("path", [None, 7, b"bank", ["bank"], object()])
def test_a_store_takes_a_path_or_its_text(path: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a directory is a path, not"):
        tx.LmdbStore(path)  # type: ignore[arg-type]
    store = tx.LmdbStore(str(tmp_path / "bank"))
    assert repr(store) == f"<LmdbStore in {tmp_path / 'bank'}>"
    store.close()
