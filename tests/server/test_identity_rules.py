"""A data directory is the server whose promises it keeps; a server starts on no other."""

import asyncio

import pytest

import wormspace
from wormspace.errors import StoreError, StoreLocked, WrongIdentity
from wormspace.server import identity, runner
from wormspace.server.config import ClusterConfig, ConfigError, ServerConfig, dump, load
from wormspace.server.identity import Identity
from wormspace.server.storage import AcceptorStore
from wormspace.store.memory_engine import MemoryEngine


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
        runner.open_engine(config, server, tmp_path).close()


async def test_a_server_does_not_start_without_its_directory(tmp_path):
    config = cluster()
    with pytest.raises(WrongIdentity, match="not there"):
        runner.open_engine(config, config.server[0], tmp_path)
    assert list(tmp_path.iterdir()) == []  # and does not make one


async def test_a_server_does_not_start_on_an_empty_directory(tmp_path):
    """Its disk was lost and replaced: it would have forgotten what it promised."""
    config = await prepared(tmp_path)
    for file in (tmp_path / "s1").iterdir():
        file.unlink()
    with pytest.raises(WrongIdentity, match="would forget what it promised"):
        runner.open_engine(config, config.server[0], tmp_path)


async def test_a_server_does_not_start_on_anothers_directory(tmp_path):
    config = await prepared(tmp_path)
    (tmp_path / "s1").rename(tmp_path / "away")
    (tmp_path / "s2").rename(tmp_path / "s1")
    with pytest.raises(WrongIdentity, match="'s2'"):
        runner.open_engine(config, config.server[0], tmp_path)


async def test_a_server_does_not_start_on_a_directory_of_another_cluster(tmp_path):
    await prepared(tmp_path)
    other = cluster("another")
    with pytest.raises(WrongIdentity, match="another"):
        runner.open_engine(other, other.server[0], tmp_path)


async def test_a_refused_directory_is_left_as_it_was_and_unlocked(tmp_path):
    config = await prepared(tmp_path)
    other = cluster("another")
    with pytest.raises(WrongIdentity):
        runner.open_engine(other, other.server[0], tmp_path)
    runner.open_engine(config, config.server[0], tmp_path).close()


async def test_preparing_twice_is_harmless_and_does_not_take_over(tmp_path):
    config = await prepared(tmp_path)
    await prepared(tmp_path, config)
    with pytest.raises(WrongIdentity, match="belongs to"):
        await prepared(tmp_path, cluster("another"))


async def test_a_running_servers_directory_is_locked(tmp_path):
    config = await prepared(tmp_path)
    engine = runner.open_engine(config, config.server[0], tmp_path)
    with pytest.raises(StoreLocked):
        runner.open_engine(config, config.server[0], tmp_path)
    engine.close()


async def test_a_server_that_keeps_its_promises_in_memory_starts_once(tmp_path):
    config = await prepared(tmp_path, cluster(durability="memory"))
    engine = runner.open_engine(config, config.server[0], tmp_path)
    assert isinstance(engine, MemoryEngine)
    engine.close()
    with pytest.raises(WrongIdentity, match="must not come back"):
        runner.open_engine(config, config.server[0], tmp_path)


async def test_an_embedded_store_is_no_servers_and_a_servers_is_not_embedded(tmp_path):
    config = await prepared(tmp_path)
    with pytest.raises(WrongIdentity):
        await wormspace.connect(f"file:{tmp_path / 's1'}")
    async with wormspace.connect(f"file:{tmp_path / 'mine'}"):
        pass
    (tmp_path / "s1").rename(tmp_path / "away")
    (tmp_path / "mine").rename(tmp_path / "s1")
    with pytest.raises(WrongIdentity, match="embedded"):
        runner.open_engine(config, config.server[0], tmp_path)


async def test_a_file_that_is_no_directory_is_an_error_of_the_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        await wormspace.connect(f"file:{tmp_path / 'file'}")


def test_the_identity_is_read_back(tmp_path):
    engine = AcceptorStore(tmp_path)
    assert identity.read(engine) is None
    asyncio.run(identity.prepare(engine, Identity("c", "s"), tmp_path))
    assert identity.read(engine) == Identity("c", "s")
    engine.close()


# ---------------------------------------------------------------------------- the cluster file


def test_a_cluster_file_reads_back_as_it_was_written(tmp_path):
    config = cluster('quoted "name"')
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
