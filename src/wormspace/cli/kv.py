"""`wormspace kv`: a replicated key-value store, as a server process and for people and scripts."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop

from wormspace.cli.arguments import PORT, Amount, endpoints, value_bytes
from wormspace.cli.settings import Settings, common
from wormspace.cli.show import (
    as_json_value,
    cell,
    emit,
    escaped,
    note,
    preview,
    print_table,
    printable,
    say,
    show_value,
    table,
)
from wormspace.connecting import connect
from wormspace.errors import UsageError
from wormspace.runtime.collector import collect_seldom
from wormspace.runtime.endpoints import Endpoint
from wormspace.server.logs import log_to_stderr
from wormspace.smr import (
    Change,
    Durability,
    Entry,
    KeyValue,
    NeverTrim,
    Sticky,
    TrimBehindSnapshots,
    View,
    attach,
)
from wormspace.smr.kv import SCAN_LIMIT, prefix_stop

T = TypeVar("T")

EMBEDDED_ELECTION_S = 0.2
"""With `file:` there is one process at a time: whoever led before is gone."""


class Target:
    """Which store, and how to reach it."""

    def __init__(self, settings: Settings, name: str, replicas: list[Endpoint]) -> None:
        self.settings = settings
        self.name = name
        self._replicas = replicas

    def run(self, work: Callable[[View[KeyValue]], Awaitable[T]]) -> T:
        """Do some work on the store."""

        async def main() -> T:
            timeout = self.settings.timeout
            if self._replicas:
                async with await attach(
                    KeyValue, self.name, self._replicas, timeout=timeout
                ) as store:
                    return await work(store)
            url = self.settings.target()
            async with connect(url, timeout=timeout) as worm:
                if not url.startswith("worm:"):
                    async with await worm.replicate(
                        KeyValue,
                        self.name,
                        leadership=Sticky(EMBEDDED_ELECTION_S),
                        timeout=timeout,
                    ) as own:
                        return await work(own)
                async with await worm.attach(KeyValue, self.name, timeout=timeout) as store:
                    return await work(store)

        return asyncio.run(main())


def _target(command: Callable[..., Any]) -> Any:
    """`--name` and `--replicas`, and the target as the command's first argument."""

    def with_target(
        settings: Settings, name: str, replicas: str | None, **arguments: Any
    ) -> object:
        return command(Target(settings, name, endpoints(replicas) if replicas else []), **arguments)

    with_target.__name__ = command.__name__
    with_target.__doc__ = command.__doc__
    with_target.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    with_replicas = click.option(
        "--replicas",
        envvar="WORMSPACE_KV",
        show_envvar=True,
        metavar="HOST:PORT,...",
        help="Where replicas run; by default, the address space is asked.",
    )
    with_name = click.option("--name", default="kv", show_default=True, help="The store's name.")
    return with_name(with_replicas(common(with_target)))


@click.group()
def kv() -> None:
    """A replicated key-value store.

    Start replicas with `wormspace kv serve`, one per machine; then, from anywhere:

    \b
      wormspace kv put colour green
      wormspace kv get colour
      wormspace kv listen
    """


@kv.command()
@click.option("--name", default="kv", show_default=True, help="The store's name.")
@click.option("--replica", default="", help="This replica's name.  [default: its host and port]")
@click.option("--host", default="127.0.0.1", show_default=True, help="How others reach this one.")
@click.option("--port", type=PORT, default=0, help="The port; 0 lets the system choose.")
@click.option(
    "--snapshots",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep snapshots in this directory, and trim the space behind them.",
)
@click.option(
    "--copies",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Trim behind snapshots that so many replicas keep.",
)
@click.option(
    "--election",
    type=Amount(),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a leader may show no sign of life.",
)
@common
def serve(
    settings: Settings,
    name: str,
    replica: str,
    host: str,
    port: int,
    snapshots: Path | None,
    copies: int,
    election: float,
) -> None:
    """Run a replica of the store, until Ctrl-C or SIGTERM."""
    log_to_stderr("info")
    collect_seldom()
    durability: Durability = NeverTrim()
    if snapshots is not None:
        durability = TrimBehindSnapshots(snapshots, copies=copies)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with (
            connect(settings.target(), timeout=settings.timeout) as worm,
            await worm.replicate(
                KeyValue,
                name,
                replica=replica,
                host=host,
                port=port,
                leadership=Sticky(election),
                durability=durability,
            ) as store,
        ):
            member = store.status().member
            settings.answer(
                {"replica": member.name, "host": member.host, "port": member.port},
                f"replica of {printable(name)} at {Endpoint(member.host, member.port)}",
                note,
            )
            while not stop.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1.0)
                if store.status().failed:
                    raise UsageError(f"the replica has stopped: {store.status().failed}")

    uvloop.run(main())


@kv.command()
@click.argument("key")
@_target
def get(target: Target, key: str) -> None:
    """Print the value of KEY; ends with 1 if there is none."""
    entry: Entry | None = target.run(lambda store: store.call(KeyValue.entry, key))
    if target.settings.json:
        emit(
            {
                "key": key,
                "value": as_json_value(None if entry is None else entry.value),
                "revision": None if entry is None else entry.revision,
                "expires": entry.expires_ns / 1e9 if entry and entry.expires_ns else None,
            }
        )
    else:
        show_value(None if entry is None else entry.value, "no such key")
    if entry is None:
        click.get_current_context().exit(1)


@kv.command()
@click.argument("key")
@click.argument("value")
@click.option("--ttl", type=Amount(), metavar="SECONDS", help="Remove it after so long.")
@_target
def put(target: Target, key: str, value: str, ttl: float | None) -> None:
    """Set KEY to VALUE; `-` reads the value from standard input."""
    raw = value_bytes(value)
    revision = target.run(lambda store: store.call(KeyValue.put, key, raw, ttl))
    answer = {"key": key, "revision": revision}
    target.settings.answer(answer, f"revision {revision}", note)


@kv.command()
@click.argument("key")
@_target
def delete(target: Target, key: str) -> None:
    """Remove KEY; ends with 1 if it was not there."""
    was_there = target.run(lambda store: store.call(KeyValue.delete, key))
    if target.settings.json:
        emit({"key": key, "deleted": was_there})
    elif not was_there:
        note("no such key")
    if not was_there:
        click.get_current_context().exit(1)


@kv.command()
@click.argument("key")
@click.argument("value")
@click.option("--expect", metavar="VALUE", help="Only if the key holds this.")
@click.option("--absent", is_flag=True, help="Only if the key is not there.")
@click.option("--ttl", type=Amount(), metavar="SECONDS", help="Remove it after so long.")
@_target
def cas(
    target: Target, key: str, value: str, expect: str | None, absent: bool, ttl: float | None
) -> None:
    """Set KEY to VALUE if it holds what is expected; ends with 3 if it does not."""
    if absent == (expect is not None):
        raise click.UsageError("give either --expect VALUE or --absent")
    expected = None if expect is None else value_bytes(expect)
    raw = value_bytes(value)
    swapped = target.run(lambda store: store.call(KeyValue.cas, key, expected, raw, ttl))
    if target.settings.json:
        emit({"key": key, "swapped": swapped})
    elif not swapped:
        note("the key holds something else")
    if not swapped:
        click.get_current_context().exit(3)


@kv.command()
@click.argument("start", default="")
@click.argument("stop", required=False)
@click.option("--prefix", help="Keys that begin so, instead of a range.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=SCAN_LIMIT,
    show_default=True,
    help="At most so many.",
)
@_target
def scan(target: Target, start: str, stop: str | None, prefix: str | None, limit: int) -> None:
    """List the keys from START up to, not including, STOP, in order."""
    if prefix is not None:
        start, stop = prefix, prefix_stop(prefix)
    found = target.run(lambda store: store.call(KeyValue.scan, start, stop, limit))
    if target.settings.json:
        for key, value in found:
            emit({"key": key, "value": as_json_value(value)})
        return
    rows = table("key", "value")
    for key, value in found:
        rows.add_row(cell(printable(key)), cell(preview(value)))
    if found:
        print_table(rows)
    note(f"{len(found)} keys")


@kv.command()
@click.option("--prefix", default="", help="Only keys that begin so.")
@click.option(
    "--start", type=click.IntRange(min=1), metavar="REVISION", help="Begin with this revision."
)
@_target
def listen(target: Target, prefix: str, start: int | None) -> None:
    """Print changes as they happen, until Ctrl-C."""

    async def work(store: Any) -> None:
        async for _, change in store.listen(start):
            if change.key.startswith(prefix):
                _show(change, as_json=target.settings.json)

    try:
        target.run(work)
    except KeyboardInterrupt:
        pass  # the way a listener ends


def _show(change: Change, *, as_json: bool) -> None:
    if as_json:
        emit(
            {
                "key": change.key,
                "value": as_json_value(change.value),
                "revision": change.revision,
            }
        )
    else:
        what = "deleted" if change.value is None else escaped(change.value)
        say(f"{change.revision}  {printable(change.key)}  {what}")
