"""Single-register writes and reads beside their floor, interleaved in one run.

`wormspace bench`, with the floor's writes before each window: the same transport and the same
group-committed store without a protocol.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click
import uvloop
from rich.console import Console

from benchmarks import floor
from benchmarks.command import keep, measuring, servers_option
from wormspace.bench.load import Sample, closed_loop
from wormspace.bench.processes import make_cluster, running
from wormspace.bench.registers import Loops, Options, Result, loops, sync_ms
from wormspace.cli.bench import progress, show, title
from wormspace.runtime.collector import collect_seldom
from wormspace.server.config import ClusterConfig


def run(options: Options, tell: Callable[[str], None]) -> Result:
    """Start both clusters, run the loops, stop them.

    Raises:
        ServersFailed: a server ended by itself.
    """
    with tempfile.TemporaryDirectory(prefix="wormspace-bench-", dir=".") as d, ExitStack() as stack:
        base = Path(d)
        clusters: list[ClusterConfig] = []
        pids: list[list[int]] = []
        for module, partitions in ((floor.MODULE, 1), ("wormspace.server", options.partitions)):
            (base / module).mkdir()
            cluster = make_cluster(base / module, options.servers, partitions, options.durability)
            clusters.append(cluster)
            pids.append(stack.enter_context(running(base / module, cluster, module)))
        one_sync_ms = sync_ms(base / "sync", options.value_size)
        collect_seldom()
        of_product = Loops(options, pids[1], tell)
        return uvloop.run(
            _both(of_product, clusters[1].url, one_sync_ms, clusters[0], pids[0], tell)
        )


async def _both(
    product: Loops,
    url: str,
    one_sync_ms: float,
    of_floor: ClusterConfig,
    pids: list[int],
    tell: Callable[[str], None],
) -> Result:
    seconds, value = product.options.seconds, bytes(product.options.value_size)
    numbers = itertools.count()
    async with floor.clients([of_floor.server]) as (client,):

        async def beside(window: int) -> Sample:
            tell(f"floor, window {window}")
            return await closed_loop(
                "floor",
                lambda n: client.write(n, value),
                window=window,
                seconds=seconds,
                warm_up_s=seconds / 4,
                pids=pids,
                numbers=numbers,
            )

        return await product.all(url, one_sync_ms, beside)


@click.command("registers")
@measuring("1,32,256,1024", "Operations")
@servers_option
@click.option(
    "--partitions", type=click.IntRange(1), default=1, show_default=True, help="Replica sets."
)
def registers_command(
    windows: tuple[int, ...],
    seconds: float,
    value_size: int,
    durability: str,
    out: Path,
    servers: str,
    partitions: int,
) -> None:
    """Measure single-register writes and reads beside the floor.

    The floor is the same transport and the same group-committed store, without a protocol.
    """
    options = Options(windows, seconds, value_size, durability, int(servers), partitions)
    console = Console()
    with progress(console, loops(options) + len(windows)) as tell:
        result = run(options, tell)
    show(console, result, "floor")
    keep(console, out, "registers", title(options), result, result.samples)
