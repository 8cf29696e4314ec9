"""Where the log's suite runs: embedded, durable, and on a cluster; and who hands out positions."""

import itertools

import pytest

import wormspace
from cluster_fixture import ProcessCluster

KINDS = ("memory", "file", "cluster", "cluster-alone", "cluster-unsafe")
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


@pytest.fixture
def worm(kind, request, tmp_path, runner):
    """A client."""
    url = {"memory": "memory:", "file": f"file:{tmp_path / 'store'}"}.get(kind)
    if url is None:
        url = request.getfixturevalue("cluster").url
    client = runner.run(_connect(url))
    yield client
    runner.run(client.close())


async def _connect(url):
    return await wormspace.connect(url)


@pytest.fixture
def name():
    """A log that nobody used."""
    return f"log-{next(_names)}"


@pytest.fixture
def make(kind, worm, name):
    """Opens the test's log with the options of its kind, and others."""

    async def make(**options):
        return await worm.log(
            name, **{"segment_size": 16, "patience": 0.1, **OPTIONS.get(kind, {}), **options}
        )

    return make
