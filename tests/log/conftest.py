"""Where the log's suite runs: embedded, durable, and on a cluster; and who hands out positions."""

import asyncio
import contextlib
import itertools
import shutil

import pytest
from aged import KNOBS_OF_AGE, SIZES, TURNS, Aged, name_of
from log_life import Life

import wormspace
from cluster_fixture import ProcessCluster
from wormspace.knobs import turned

KINDS = ("memory", "memory-aged", "file", "cluster", "cluster-alone", "cluster-unsafe")
OPTIONS = {
    "cluster-alone": {"sequencer": "none"},
    "cluster-unsafe": {"capture_ahead": False},
}

_names = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Three servers, shared by all tests of a worker: each test has a log of its own."""
    running = ProcessCluster(tmp_path_factory.mktemp("log-cluster"))
    try:
        yield running.start()
    finally:
        running.close()


def _params():
    for kind in KINDS:
        marks = [pytest.mark.xdist_group(f"log-{kind.split('-')[0]}")]
        if kind.startswith("cluster"):
            marks.append(pytest.mark.processes)
        yield pytest.param(kind, marks=marks)


@pytest.fixture(params=_params())
def kind(request):
    return request.param


@pytest.fixture(scope="session")
def old_store(tmp_path_factory):
    """A store with old logs: its directory, and where each of them begins to look new."""
    path = tmp_path_factory.mktemp("aged") / "store"
    with turned(**KNOBS_OF_AGE):
        return path, asyncio.run(_age(f"file:{path}?durability=os"))


async def _age(url):
    begins = {}
    async with wormspace.connect(url) as worm:
        for size in SIZES:
            life = Life(worm, size, name_of(size), size)
            await life.live(TURNS)
            async with await worm.log(name_of(size)) as log:
                base = await log.trim(await log.tail())
                begins[name_of(size)] = (base, await log._segmented_log.end())
    return begins


@pytest.fixture
def worm(kind, request, tmp_path, runner):
    """A client."""
    with contextlib.ExitStack() as stack:
        if kind == "memory-aged":
            path, _ = request.getfixturevalue("old_store")
            url = f"file:{shutil.copytree(path, tmp_path / 'store')}?durability=os"
            stack.enter_context(turned(**KNOBS_OF_AGE))
        else:
            url = {"memory": "memory:", "file": f"file:{tmp_path / 'store'}"}.get(kind)
        if url is None:
            url = request.getfixturevalue("cluster").url
        client = runner.run(_connect(url))
        yield client
        runner.run(client.close())


async def _connect(url):
    return await wormspace.connect(url)


@pytest.fixture
def name(kind):
    """A log that nobody used, or that was used for ages."""
    return name_of(16) if kind == "memory-aged" else f"log-{next(_names)}"


@pytest.fixture
def make(kind, worm, name, request):
    """Opens the test's log with the options of its kind, and others."""

    async def make(**options):
        options = {"segment_size": 16, "patience_s": 0.1, **OPTIONS.get(kind, {}), **options}
        if kind != "memory-aged":
            return await worm.log(name, **options)
        old = name_of(options["segment_size"])
        return Aged(await worm.log(old, **options), *request.getfixturevalue("old_store")[1][old])

    return make
