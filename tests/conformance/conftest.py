"""The implementations that the conformance suite runs on.

All that `wormspace.registers.registry` finds, those of other installed packages too.  Each is a
*door*: it opens clients.  Doors to server processes are shared by all tests of a worker, so every
test uses a space of its own.
"""

import asyncio
import contextlib
import inspect
import itertools

import pytest

import wormspace
import wormspace.sync
from cluster_fixture import ProcessCluster
from wormspace.registers import registry
from wormspace.runtime.closing import Closing

CLUSTERS = {"worm": ("cluster", "one-down", "partitions")}
"""Of an implementation that takes servers, what is started for it."""

ON_PROCESSES = [kind for kinds in CLUSTERS.values() for kind in kinds]
TRIALS = {scheme: registry.find(scheme).trial for scheme in registry.schemes()}
"""By scheme, what opens fresh registers."""

KINDS = [
    *(kind for scheme, url in TRIALS.items() for kind in ([scheme] if url else CLUSTERS[scheme])),
    "sync",
]

_names = itertools.count(1)


class Door:
    """How to open clients of one implementation.

    Attributes:
        kind: one of `KINDS`.
        shared: whether a second client sees what the first one did.
        servers: how many servers there are.
    """

    def __init__(self, kind, url, servers=1):
        self.kind = kind
        self.url = url
        self.shared = not registry.find(url.partition(":")[0]).embedded
        self.servers = servers

    async def open(self, **options):
        if self.kind == "sync":
            return Asynchronous(await asyncio.to_thread(wormspace.sync.connect, self.url))
        return await wormspace.connect(self.url, **options)


class Asynchronous:
    """A synchronous client, space or segment, called as if it were an asynchronous one."""

    def __init__(self, twin):
        self._twin = twin

    def __getattr__(self, name):
        found = getattr(self._twin, name)
        if isinstance(found, wormspace.sync.Space | wormspace.sync.Worm):
            return Asynchronous(found)
        if not inspect.ismethod(found):
            return found
        original = getattr(getattr(wormspace, type(self._twin).__name__), name)
        if not inspect.iscoroutinefunction(original):
            return lambda *a, **k: _wrapped(found(*a, **k))

        async def call(*arguments, **options):
            return _wrapped(await asyncio.to_thread(found, *arguments, **options))

        return call


def _wrapped(result):
    if isinstance(result, wormspace.sync.Space | wormspace.sync.Segment):
        return Asynchronous(result)
    return _Events(result) if isinstance(result, wormspace.sync.Stream) else result


class _Events(Closing):
    """A stream of the twin, read as if it were an asynchronous one."""

    def __init__(self, events):
        self._events = events

    def __aiter__(self):
        return self

    async def __anext__(self):
        while True:
            event = await asyncio.to_thread(self._wait)
            if event is StopIteration:
                raise StopAsyncIteration
            if event is not None:
                return event

    def _wait(self):
        try:
            return self._events.wait(0.05)
        except StopIteration as e:  # which no future can hold
            return type(e)

    async def close(self):
        await asyncio.to_thread(self._events.close)


@pytest.fixture(scope="session")
def _clusters(tmp_path_factory):
    """Shared clusters by kind, started when first asked for."""
    with contextlib.ExitStack() as stack:
        running = {}

        def get(kind):
            if kind not in running:
                sets = (3, 1) if kind == "partitions" else (3,)
                cluster = ProcessCluster(tmp_path_factory.mktemp(kind), sets)
                stack.callback(cluster.close)
                cluster.start()
                if kind == "one-down":
                    cluster.kill("s2")
                running[kind] = cluster
            return running[kind]

        yield get


def _params():
    for kind in KINDS:
        marks = [pytest.mark.processes] if kind in ON_PROCESSES else []
        yield pytest.param(kind, marks=[*marks, pytest.mark.xdist_group(f"conformance-{kind}")])


@pytest.fixture(params=_params())
def door(request, tmp_path):
    kind = request.param
    if kind in ON_PROCESSES:
        cluster = request.getfixturevalue("_clusters")(kind)
        return Door(kind, cluster.url, len(cluster.names))
    url = TRIALS["memory" if kind == "sync" else kind].format(directory=tmp_path)
    return Door(kind, url)


@pytest.fixture
def worm(door, runner):
    """A client."""
    client = runner.run(door.open())
    yield client
    runner.run(client.close())


@pytest.fixture
def other(door, worm, runner):
    """A second client of the same system; where there can be none, the first."""
    if not door.shared:
        yield worm
        return
    client = runner.run(door.open())
    yield client
    runner.run(client.close())


@pytest.fixture
def name():
    """The name of a space that nobody used."""
    return f"space-{next(_names)}"


@pytest.fixture
def space(worm, name):
    return worm.space(name)


@pytest.fixture
def segment(space, runner):
    """A fresh segment of 8 registers."""
    return runner.run(space.alloc(b"for a test", size=8))
