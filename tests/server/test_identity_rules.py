"""A data directory is the server whose promises it keeps; a server starts on no other."""

import asyncio

import msgspec
import pytest

import wormspace
from wormspace.errors import BadUrl, NewerFormat, StoreError, StoreLocked, WrongIdentity
from wormspace.server import identity, runner
from wormspace.server.config import ClusterConfig, ConfigError, ServerConfig, dump, load
from wormspace.server.identity import Identity
from wormspace.server.storage import AcceptorStore
from wormspace.store.memory_engine import MemoryEngine

TERMS = Identity(cluster="c", server="s1", members=("s1",))


def cluster(name="c", durability="sync", servers=("s1", "s2", "s3")):
    return ClusterConfig(
        name,
        [ServerConfig(s, "127.0.0.1", 7001 + i, s) for i, s in enumerate(servers)],
        durability,
    )


async def prepared(tmp_path, config=None):
    config = config or cluster()
    for server in config.server:
        await runner.prepare_directory(config, server, tmp_path)
    return config


async def test_a_server_starts_on_the_directory_prepared_for_it(tmp_path):
    config = await prepared(tmp_path)
    for server in config.server:
        (await runner.open_engine(config, server, tmp_path)).close()


async def test_a_server_does_not_start_without_its_directory(tmp_path):
    config = cluster()
    with pytest.raises(WrongIdentity, match="not there"):
        await runner.open_engine(config, config.server[0], tmp_path)
    assert list(tmp_path.iterdir()) == []  # and does not make one


async def test_a_server_does_not_start_on_an_empty_directory(tmp_path):
    """Its disk was lost and replaced: it would have forgotten what it promised."""
    config = await prepared(tmp_path)
    for file in (tmp_path / "s1").iterdir():
        file.unlink()
    with pytest.raises(WrongIdentity, match="would forget what it promised"):
        await runner.open_engine(config, config.server[0], tmp_path)


async def test_a_server_does_not_start_on_anothers_directory(tmp_path):
    config = await prepared(tmp_path)
    (tmp_path / "s1").rename(tmp_path / "away")
    (tmp_path / "s2").rename(tmp_path / "s1")
    with pytest.raises(WrongIdentity, match="'s2'"):
        await runner.open_engine(config, config.server[0], tmp_path)


async def test_a_server_does_not_start_on_a_directory_of_another_cluster(tmp_path):
    await prepared(tmp_path)
    other = cluster("another")
    with pytest.raises(WrongIdentity, match="another"):
        await runner.open_engine(other, other.server[0], tmp_path)


async def test_a_refused_directory_is_left_as_it_was_and_unlocked(tmp_path):
    config = await prepared(tmp_path)
    other = cluster("another")
    with pytest.raises(WrongIdentity):
        await runner.open_engine(other, other.server[0], tmp_path)
    (await runner.open_engine(config, config.server[0], tmp_path)).close()


async def test_preparing_twice_is_harmless_and_does_not_take_over(tmp_path):
    config = await prepared(tmp_path)
    await prepared(tmp_path, config)
    with pytest.raises(WrongIdentity, match="belongs to"):
        await prepared(tmp_path, cluster("another"))


async def test_a_running_servers_directory_is_locked(tmp_path):
    config = await prepared(tmp_path)
    engine = await runner.open_engine(config, config.server[0], tmp_path)
    with pytest.raises(StoreLocked):
        await runner.open_engine(config, config.server[0], tmp_path)
    engine.close()


async def test_a_server_that_keeps_its_promises_in_memory_starts_once(tmp_path):
    config = await prepared(tmp_path, cluster(durability="memory"))
    engine = await runner.open_engine(config, config.server[0], tmp_path)
    assert isinstance(engine, MemoryEngine)
    engine.close()
    with pytest.raises(WrongIdentity, match="must not come back"):
        await runner.open_engine(config, config.server[0], tmp_path)


async def test_one_that_could_not_listen_has_promised_nothing_and_starts_later(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(runner, "collect_seldom", lambda: None)  # of this process
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    config = ClusterConfig("c", [ServerConfig("s1", "127.0.0.1", port, "s1")], "memory")
    await prepared(tmp_path, config)
    for _ in range(2):
        with pytest.raises(OSError, match="in use"):
            await runner.serve(config, config.server[0], tmp_path)
    taken.close()
    (await runner.open_engine(config, config.server[0], tmp_path)).close()
    with pytest.raises(WrongIdentity, match="must not come back"):
        await runner.open_engine(config, config.server[0], tmp_path)


def one_and_three():
    alone = cluster(servers=("s1",))
    return alone, cluster()


def partitions(first="s1", second="s2"):
    """Two partitions of one server each."""
    return ClusterConfig(
        "c",
        [ServerConfig(first, "h", 7001, first, 1), ServerConfig(second, "h", 7002, second, 2)],
    )


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (cluster(durability="sync"), cluster(durability="memory"), "durability is sync there"),
        (cluster(durability="sync"), cluster(durability="os"), "durability is sync there"),
        (cluster(durability="os"), cluster(durability="sync"), "durability is os there"),
        (cluster(durability="memory"), cluster(durability="sync"), "durability is memory there"),
        (*one_and_three(), "members is s1 there and s1, s2, s3 here"),
        (*reversed(one_and_three()), "members is s1, s2, s3 there and s1 here"),
        (cluster(), cluster(servers=("s1", "s2", "s4")), "members"),
        (partitions(), partitions("s2", "s1"), "partition is 0 there and 1 here"),
        (cluster(servers=("s1",)), partitions(), "partitions is 1 there and 2 here"),
    ],
)
async def test_a_server_does_not_start_on_other_terms_than_it_promised(
    before, after, says, tmp_path
):
    """Each of these edits of the cluster file made servers forget what they had promised."""
    await prepared(tmp_path, before)
    server = after.find("s1")
    with pytest.raises(WrongIdentity, match=says):
        await runner.open_engine(after, server, tmp_path)
    with pytest.raises(WrongIdentity, match=says):
        await runner.prepare_directory(after, server, tmp_path)
    (await runner.open_engine(before, before.find("s1"), tmp_path)).close()


async def test_a_server_may_move_to_another_address_and_be_listed_elsewhere(tmp_path):
    config = await prepared(tmp_path)
    moved = ClusterConfig(
        "c", [ServerConfig(s.name, "elsewhere", s.port + 1, s.data) for s in config.server[::-1]]
    )
    (await runner.open_engine(moved, moved.find("s1"), tmp_path)).close()


async def test_what_safety_rests_on_is_in_no_file_that_people_edit_or_delete(tmp_path):
    """A server in memory that was started stays started, whatever is deleted around its store."""
    config = await prepared(tmp_path, cluster(durability="memory"))
    before = {file.name for file in (tmp_path / "s1").iterdir()}
    (await runner.open_engine(config, config.server[0], tmp_path)).close()
    assert {file.name for file in (tmp_path / "s1").iterdir()} == before


async def test_a_directory_of_a_newer_version_is_refused(tmp_path):
    engine = AcceptorStore(tmp_path)
    await identity.prepare(engine, msgspec.structs.replace(TERMS, format=2), tmp_path)
    with pytest.raises(NewerFormat, match="update"):
        identity.require(engine, TERMS, tmp_path)
    engine.close()


async def test_an_identity_that_cannot_be_read_is_not_taken_for_none(tmp_path):
    engine = AcceptorStore(tmp_path)
    for raw in (b"", b"{", b'{"cluster": "c", "server": "s1"}', b'{"format": 1}', b"\xff"):
        batch = engine.begin()
        batch.put("identity", b"identity", raw)
        await engine.commit(batch)
        with pytest.raises(WrongIdentity, match="cannot read"):
            identity.require(engine, TERMS, tmp_path)
        with pytest.raises(WrongIdentity, match="cannot read"):
            await identity.prepare(engine, TERMS, tmp_path)
    engine.close()


async def test_an_embedded_store_keeps_the_durability_that_it_was_made_with(tmp_path):
    async with wormspace.connect(f"file:{tmp_path}?durability=os"):
        pass
    with pytest.raises(WrongIdentity, match="durability is os there and sync here"):
        await wormspace.connect(f"file:{tmp_path}")
    async with wormspace.connect(f"file:{tmp_path}?durability=os"):
        pass


async def test_the_home_directory_of_a_file_url_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    async with wormspace.connect("file:~/state"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    with pytest.raises(BadUrl, match="no_such_user"):
        await wormspace.connect("file:~no_such_user/state")
    with pytest.raises(BadUrl, match="no path"):
        await wormspace.connect("file:a%00b")


async def test_an_embedded_store_is_no_servers_and_a_servers_is_not_embedded(tmp_path):
    config = await prepared(tmp_path)
    with pytest.raises(WrongIdentity):
        await wormspace.connect(f"file:{tmp_path / 's1'}")
    async with wormspace.connect(f"file:{tmp_path / 'mine'}"):
        pass
    (tmp_path / "s1").rename(tmp_path / "away")
    (tmp_path / "mine").rename(tmp_path / "s1")
    with pytest.raises(WrongIdentity, match="embedded"):
        await runner.open_engine(config, config.server[0], tmp_path)


async def test_a_file_that_is_no_directory_is_an_error_of_the_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        await wormspace.connect(f"file:{tmp_path / 'file'}")


def test_the_identity_is_read_back(tmp_path):
    engine = AcceptorStore(tmp_path)
    assert identity.read(engine, tmp_path) is None
    asyncio.run(identity.prepare(engine, TERMS, tmp_path))
    assert identity.read(engine, tmp_path) == TERMS
    engine.close()


# ---------------------------------------------------------------------------- the cluster file


def test_a_cluster_file_reads_back_as_it_was_written(tmp_path):
    config = cluster('quoted "name"')
    config.server.append(ServerConfig("s4", "announced", 7009, "s4", 2, bind="0.0.0.0"))
    path = tmp_path / "cluster.toml"
    path.write_text(dump(config))
    assert load(path) == config


GOOD = """
cluster = "c"
[[server]]
name = "s1"
host = "h"
port = 1
data = "d1"
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cluster = ", "cluster.toml"),
        ("cluster = 'c'", "server"),
        ("cluster = 'c'\nserver = []", "no server"),
        (GOOD.replace("port = 1", "port = 0"), "port"),
        (GOOD.replace("port = 1", "port = 'x'"), "port"),
        (GOOD.replace("port = 1", "prot = 1"), "prot"),
        (GOOD.replace('"s1"', '""'), "name"),
        ('durability = "never"' + GOOD, "durability"),
        (GOOD + GOOD.replace('cluster = "c"', ""), "same name"),
        (GOOD + GOOD.replace('cluster = "c"', "").replace("s1", "s2"), "same address"),
        (
            GOOD + GOOD.replace('cluster = "c"', "").replace("s1", "s2").replace("= 1", "= 2"),
            "same data directory",
        ),
        (
            GOOD
            + GOOD.replace('cluster = "c"', "")
            .replace("s1", "s2")
            .replace("= 1", "= 2")
            .replace("d1", "d2"),
            "2 servers; it takes 1, 3, 5 or 7",
        ),
        (GOOD + "partition = 2\n", "partition 1 has 0 servers"),
    ],
)
def test_a_cluster_file_that_makes_no_sense_says_what_is_wrong_with_it(text, says, tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as wrong:
        load(path)
    assert str(path) in str(wrong.value)


def test_a_cluster_file_that_is_not_there_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="cluster init"):
        load(tmp_path / "cluster.toml")


def test_a_server_that_is_not_in_the_file_is_named_with_those_that_are():
    with pytest.raises(ConfigError, match="s1, s2, s3"):
        cluster().find("s9")
