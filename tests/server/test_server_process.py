"""What makes a node a process: its cluster file, its directory, its command line and its ends."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from inprocess import Raw
from wormspace.addresses import TRIM
from wormspace.errors import StoreError, UsageError
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import Write, Written
from wormspace.server import __main__ as command
from wormspace.server import descriptors, identity, logs, runner, tables
from wormspace.server.config import ROOM_BYTES, ClusterConfig, ConfigError, ServerConfig, dump, load
from wormspace.server.identity import Identity
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.storage import AcceptorStore
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.frames import MAX_FRAME_BYTES
from wormspace.wire.messages import Status

B1 = ballot(1, b"proposer")


def sets(*sizes: int) -> ClusterConfig:
    """Partitions of so many servers each, named and numbered one after the other."""
    members = [i + 1 for i, size in enumerate(sizes) for _ in range(size)]
    return ClusterConfig(
        "c",
        [ServerConfig(f"s{n}", f"h{n}", 7000 + n, f"d{n}", p) for n, p in enumerate(members, 1)],
        max_store_bytes=1 << 24,
    )


# ---------------------------------------------------------------- the cluster file


def test_a_cluster_file_says_of_each_server_where_it_belongs() -> None:
    config = sets(1, 3)
    assert [[s.name for s in p] for p in config.partitions] == [["s1"], ["s2", "s3", "s4"]]
    assert config.url == "worm://h1:7001/h2:7002,h3:7003,h4:7004?cluster=c"
    assert "bind" not in dump(config)  # people read it
    third = config.find("s3")
    assert (third.name, third.port) == ("s3", 7003)
    assert config.identity(third) == ServerIdentity("c", "s3", 1, 2, 3)
    assert config.identity(config.find("s1")) == ServerIdentity("c", "s1", 0, 2, 1)
    terms = config.terms(third)
    assert terms == Identity(
        cluster="c", server="s3", partition=1, partitions=2, members=("s2", "s3", "s4")
    )
    assert str(terms) == "server 's3' of cluster 'c'"


@pytest.mark.parametrize(
    ("limits", "is_right"),
    [
        (Limits(), True),
        (Limits(max_value=1000, max_frame=1000 + ROOM_BYTES), True),
        (Limits(max_value=1000, max_frame=999 + ROOM_BYTES), False),
        (Limits(max_frame=MAX_FRAME_BYTES + 1), False),
        (Limits(max_value=MAX_FRAME_BYTES - ROOM_BYTES), True),
        (Limits(max_value=MAX_FRAME_BYTES - ROOM_BYTES + 1), False),
    ],
)
def test_a_frame_holds_a_value_and_what_goes_with_it(limits, is_right, tmp_path) -> None:
    path = tmp_path / "cluster.toml"
    given = f"[limits]\nmax_value = {limits.max_value}\nmax_frame = {limits.max_frame}\n"
    path.write_text(dump(sets(1)) + given)
    if is_right:
        assert load(path).limits == limits
    else:
        with pytest.raises(ConfigError, match="max_frame is at most"):
            load(path)


@pytest.mark.parametrize("sizes", [(1,), (3,), (5,), (7,), (1, 3), (2,), (4,), (9,), (3, 2)])
def test_a_replica_set_has_an_odd_number_of_servers(sizes, tmp_path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(dump(sets(*sizes)))
    wrong = [(i, n) for i, n in enumerate(sizes, 1) if n not in (1, 3, 5, 7)]
    if not wrong:
        assert load(path) == sets(*sizes)
        return
    with pytest.raises(ConfigError, match=f"partition {wrong[0][0]} has {wrong[0][1]} servers"):
        load(path)


# ---------------------------------------------------------------- the store


@pytest.mark.parametrize(
    ("table", "offset", "size", "frees"),
    [
        (tables.ROWS, TRIM, 64, True),
        (tables.ROWS, TRIM, 65, False),
        (tables.ROWS, TRIM - 1, 17, False),
        (tables.PROMISES, TRIM, 17, False),
    ],
)
def test_what_decides_a_trim_may_grow_in_a_full_store(table, offset, size, frees) -> None:
    [key] = tables.row_keys(tables.segment_key(bytes(4), 1), [offset])
    assert AcceptorStore.frees(table, key, bytes(size)) == frees


@pytest.mark.parametrize("durability", ["sync", "os", "memory"])
async def test_a_directory_is_opened_as_durable_as_the_file_says(
    durability, tmp_path, monkeypatch
) -> None:
    config = ClusterConfig("c", [ServerConfig("s1", "h", 1, "d")], durability, Limits(), 1 << 24)
    opened: list[AcceptorStore] = []

    class Noted(AcceptorStore):
        def __init__(self, directory, **how):
            opened.append(self)
            self.how = directory, how
            super().__init__(directory, **how)

    monkeypatch.setattr(runner, "AcceptorStore", Noted)
    await runner.prepare_directory(config, config.server[0], tmp_path)
    assert opened.pop().how == (tmp_path / "d", {"max_bytes": 1 << 24})
    engine = await runner.open_engine(config, config.server[0], tmp_path)
    kept = "os" if durability == "os" else "sync"
    assert opened[0].how == (tmp_path / "d", {"durability": kept, "max_bytes": 1 << 24})
    assert isinstance(engine, MemoryEngine) == (durability == "memory")
    engine.close()
    AcceptorStore(tmp_path / "d").close()  # nobody has it locked


async def test_what_was_started_in_memory_is_taken_back_alone() -> None:
    engine = MemoryEngine()
    who = Identity(cluster="c", server="s1", members=("s1",), durability="memory")
    await identity.prepare(engine, who, "here")
    await identity.start_in_memory(engine, who)
    await identity.take_back_start(engine)
    assert identity.read(engine, "here") == who
    await identity.start_in_memory(engine, who)
    batch = engine.begin()
    batch.abort()
    assert identity.read(engine, "here") == who


# ---------------------------------------------------------------- serving


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A prepared server on a free port, and what its process was made to do."""
    monkeypatch.setattr(runner, "collect_seldom", lambda: None)  # of this process
    monkeypatch.setattr(descriptors, "raise_limit", lambda: 1024)
    config = ClusterConfig(
        "c", [ServerConfig("s1", "nowhere.invalid", 1, "d", bind="127.0.0.1")], "os"
    )
    asyncio.run(runner.prepare_directory(config, config.server[0], tmp_path))
    return config, tmp_path


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_serves_where_it_is_bound_until_it_is_told_to_end(
    served, sig, monkeypatch
) -> None:
    config, base = served
    ports: list[int] = []
    started = runner.Server.start

    async def start(self, host, port):
        assert (host, port) == ("127.0.0.1", 1)
        ports.append(await started(self, host, 0))
        return ports[0]

    monkeypatch.setattr(runner.Server, "start", start)
    ready = asyncio.Event()
    running = asyncio.ensure_future(runner.serve(config, config.server[0], base, ready.set))
    await ready.wait()
    raw = await Raw.connect(ports[0])
    assert raw.welcome.server == "s1"
    assert await raw.call(Write("s", 0, B1, [0], [b"v"])) == Written([])
    assert (await raw.call(Status())).metrics["connections"] == 1
    os.kill(os.getpid(), sig)
    await running
    await raw.close()
    AcceptorStore(base / "d").close()


async def test_a_server_whose_store_fails_ends_with_that_error(served, monkeypatch) -> None:
    config, base = served
    servers: list[runner.Server] = []

    async def start(self, host, port):
        servers.append(self)
        return 1

    monkeypatch.setattr(runner.Server, "start", start)
    running = asyncio.ensure_future(runner.serve(config, config.server[0], base))
    while not servers:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert servers[0].limits.max_connections == 1024 - 64 - 64
    servers[0]._on_fatal(StoreError("the disk is on fire"))
    servers[0]._on_fatal(StoreError("and what follows from it"))
    with pytest.raises(StoreError, match="on fire"):
        await running
    AcceptorStore(base / "d").close()


def test_the_last_words_name_the_store(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = runner.last_words(sets(1).server[0], tmp_path.relative_to(tmp_path))
    assert str(tmp_path / "d1") in words
    assert "server s1 " in words
    assert logs.with_last_words(words, lambda: 7) == 7


# ---------------------------------------------------------------- the command


def test_the_command_runs_the_server_that_is_named(tmp_path, monkeypatch, capsys) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(dump(sets(3)))
    told: list[object] = []

    async def serve(cluster, server, base):
        told.append((cluster, server.name, base))
        if len(told) > 2:
            raise UsageError("no descriptors")

    monkeypatch.setattr(command.logs, "log_to_stderr", told.append)
    monkeypatch.setattr(command.runner, "serve", serve)
    assert command.main([str(path), "s2"]) == 0
    assert told == ["info", (sets(3), "s2", tmp_path)]
    assert command.main([str(path), "s2"]) == 1
    assert capsys.readouterr().err == "wormserver: no descriptors\n"
    assert command.main([str(path), "s9"]) == 1
    assert "s1, s2, s3" in capsys.readouterr().err
    for arguments in ([], [str(path)], [str(path), "s2", "more"]):
        assert command.main(arguments) == 2
        assert capsys.readouterr().err.startswith("usage: python -m wormspace.server")
    assert len(told) == 5
