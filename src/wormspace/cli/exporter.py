"""`wormspace exporter`: the servers' metrics for Prometheus.

One exporter serves a whole cluster.  It asks the servers when it is asked, so there is nothing to
tune, and a server that does not answer is shown as down.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import click
import msgspec
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wormspace.cli.arguments import PORT
from wormspace.cli.settings import Settings, common
from wormspace.cli.show import note
from wormspace.connecting import survey
from wormspace.errors import WormError
from wormspace.registers.interface import ServerState
from wormspace.runtime.endpoints import Endpoint
from wormspace.server.counters import Counters
from wormspace.space.client import Client

ANSWER_S = 2.0
"""How long a scrape waits for a silent server."""

COUNTERS = frozenset(
    {f.name for f in msgspec.structs.fields(Counters)}
    | {"connections_refused", "malformed", "store_commits"}
    | {"store_damaged_reads", "store_scrub_rows", "store_scrub_rounds", "store_slow_writes"}
)
"""The metrics that only rise while a server runs; the others are gauges."""

LABELS = ("server", "partition")


def families(servers: list[ServerState]) -> Iterator[Metric]:
    """The metrics of some servers as Prometheus sees them, and whether each server answers."""
    up = GaugeMetricFamily("wormspace_server_up", "Whether the server answers.", labels=LABELS)
    found: dict[str, Metric] = {}
    for state in servers:
        labels = (state.server, str(state.partition))
        up.add_metric(labels, float(state.reachable))
        for name, value in state.metrics.items():
            family = found.get(name)
            if family is None:
                kind = CounterMetricFamily if name in COUNTERS else GaugeMetricFamily
                about = f"`{name}` in docs/operations.md."
                family = found[name] = kind(f"wormspace_{name}", about, labels=LABELS)
            family.add_sample(
                family.name + ("_total" if family.type == "counter" else ""),
                dict(zip(LABELS, labels, strict=True)),
                value,
            )
    yield up
    yield from found.values()


class Metrics(Collector):
    """Asks the servers at each scrape; scrapes come from threads of their own."""

    def __init__(self, worm: Client, loop: asyncio.AbstractEventLoop) -> None:
        self._worm = worm
        self._loop = loop

    def describe(self) -> Iterator[Metric]:
        """Nothing is known before a server was asked."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """See `families`."""
        asked = asyncio.run_coroutine_threadsafe(self._worm.servers(timeout=ANSWER_S), self._loop)
        return families(asked.result(2 * ANSWER_S))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=PORT, default=9464, show_default=True, help="0: any free port.")
@common
def exporter(settings: Settings, host: str, port: int) -> None:
    """Serve the metrics of all servers to Prometheus, until interrupted.

    Needs no majority: a server that does not answer is `wormspace_server_up 0`.
    """
    asyncio.run(_serve(settings, host, port))


async def _serve(settings: Settings, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    async with (
        await survey(settings.target(), timeout=settings.timeout) as worm,
        serving_metrics(Metrics(worm, loop), Endpoint(host, port), "a --port"),
    ):
        await over.wait()


@asynccontextmanager
async def serving_metrics(collector: Collector, at: Endpoint, instead: str) -> AsyncIterator[None]:
    """Let Prometheus ask for metrics meanwhile.

    Args:
        instead: what to choose where nobody can listen there.

    Raises:
        WormError: nobody can.
    """
    registry = CollectorRegistry()
    try:
        http, _ = start_http_server(at.port, at.host, registry)
    except OSError as e:
        raise WormError(f"cannot listen on {at}: {e.strerror}; choose {instead}") from e
    registry.register(collector)
    note(f"metrics on http://{Endpoint(at.host, http.server_port)}/metrics")
    try:
        yield
    finally:
        await asyncio.to_thread(http.shutdown)
        http.server_close()
