"""`wormspace tx`: transactions that are stuck, and who voted what."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import click

from wormspace.cli.arguments import PORT, Amount, listening_at
from wormspace.cli.exporter import serving_metrics
from wormspace.cli.settings import Settings, common
from wormspace.cli.show import cell, emit, note, print_table, say, table
from wormspace.errors import Trimmed
from wormspace.runtime.collector import collect_seldom
from wormspace.runtime.endpoints import Endpoint
from wormspace.space.client import Client
from wormspace.tx import (
    UNDECIDED,
    Gid,
    KeyValueStore,
    LmdbStore,
    Resolution,
    ResourceManager,
    Site,
    TxId,
)
from wormspace.tx.metrics import SiteMetrics
from wormspace.tx.opening import open_manager
from wormspace.tx.site import PATIENCE_S
from wormspace.tx.trimming import retire
from wormspace.tx.viewing import Seen, look, look_at

STYLES = {"committed": "green", "aborted": "yellow", UNDECIDED: "bold red"}


def _managers(
    ctx: click.Context, parameter: click.Parameter, words: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    pairs = []
    for word in words:
        name, equals, url = word.partition("=")
        if not equals or not name or not url:
            raise click.BadParameter(f"{word!r} is not NAME=URL")
        pairs.append((name, url))
    return tuple(pairs)


space_option = click.option(
    "--space", default="tx", show_default=True, help="The transaction space."
)


metrics_option = click.option(
    "--metrics",
    type=listening_at,
    metavar="[HOST:]PORT",
    help="Serve metrics to Prometheus there (PORT 0: any free one).",
)


@click.group()
def tx() -> None:
    """Transactions over several databases: see what is stuck, and resolve it."""


def _when(at: float) -> str:
    if not at:
        return "-"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _json(seen: Seen) -> dict[str, object]:
    return {
        "id": str(seen.id),
        "outcome": seen.outcome,
        "participants": list(seen.participants),
        "missing": list(seen.missing),
        "at": seen.at,
        "votes": {
            name: {
                "vote": "yes" if vote.yes else "no",
                "at": vote.at,
                "by": vote.by,
                "reason": vote.reason,
                "gid": vote.gid,
            }
            for name, vote in sorted(seen.votes.items())
        },
    }


@tx.command("list")
@click.option("--all", "everything", is_flag=True, help="Decided ones too, not only the undecided.")
@space_option
@common
def list_command(settings: Settings, everything: bool, space: str) -> None:
    """List transactions that are not decided, and what is missing.

    Votes of transactions on which everybody has acted are trimmed in time, and not listed.
    """
    found = settings.run(lambda worm: look(worm, space))
    chosen = [seen for seen in found if everything or seen.outcome == UNDECIDED]
    if settings.json:
        for seen in chosen:
            emit(_json(seen))
        return
    t = table("transaction", "outcome", "participants", "missing", "last vote")
    for seen in chosen:
        t.add_row(
            str(seen.id),
            cell(seen.outcome, STYLES[seen.outcome]),
            cell(", ".join(seen.participants)),
            cell(", ".join(seen.missing) or "-"),
            _when(seen.at),
        )
    print_table(t)
    note(f"{len(found)} transactions have votes, {len(chosen)} are shown")


@tx.command()
@click.argument("id")
@space_option
@common
def show(settings: Settings, id: str, space: str) -> None:  # noqa: A002 - the argument's name
    """Show who voted what on transaction ID, when, why, and what is missing."""
    txid = TxId.parse(id)
    try:
        seen = settings.run(lambda worm: look_at(worm, space, txid))
    except Trimmed:
        raise Trimmed(
            f"{txid} is over: everybody has acted on it, and its votes are gone"
        ) from None
    if seen is None:
        raise Trimmed(f"nobody has voted on {txid}: it never was, or is not there yet")
    if settings.json:
        emit(_json(seen))
        return
    say(f"{seen.id}: {seen.outcome}", STYLES[seen.outcome])
    t = table("participant", "vote", "at", "by", "why")
    for name in sorted({*seen.participants, *seen.votes}):
        vote = seen.votes.get(name)
        if vote is None:
            t.add_row(cell(name), cell("missing", "bold red"), "-", "-", "")
        else:
            word = cell("yes", "green") if vote.yes else cell("no", "yellow")
            t.add_row(cell(name), word, _when(vote.at), cell(vote.by), cell(vote.reason))
    print_table(t)


@tx.command()
@click.option(
    "--manager",
    "managers",
    multiple=True,
    required=True,
    callback=_managers,
    metavar="NAME=URL",
    help="A resource manager: postgresql://..., mysql://... or kv://HOST:PORT. Repeat it.",
)
@click.option(
    "--patience",
    type=Amount(zero=True),
    default=PATIENCE_S,
    show_default=True,
    help="Seconds that a branch must have been prepared before it is resolved.",
)
@click.option(
    "--trim-after",
    type=Amount(zero=True),
    metavar="SECONDS",
    help="Also trim the votes of initiators that have not voted for so long.",
)
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C or SIGTERM.")
@metrics_option
@space_option
@common
def resolve(
    settings: Settings,
    managers: tuple[tuple[str, str], ...],
    patience: float,
    trim_after: float | None,
    watch: bool,
    metrics: Endpoint | None,
    space: str,
) -> None:
    """Finish what a crash left prepared: read the votes, vote no where one is missing, obey.

    Harmless at any time, anywhere, many at once: a participant that is only slow is aborted, and
    learns so.
    """

    async def work(worm: Client) -> int:
        opened = [open_manager(name, url) for name, url in managers]
        site = Site(worm, space=space, managers=opened, patience_s=max(patience, 0.1))
        problems = 0
        told: set[Gid] = set()
        try:
            async with _metrics(site, metrics):
                await site.recover(patience_s=float("inf"))
                while True:
                    await asyncio.sleep(patience)
                    for resolution in await site.recover(patience):
                        problems += bool(resolution.problem)
                        _tell(settings, resolution)
                    told = _tell_of_others(settings, site.left_alone(patience), told)
                    if trim_after is not None:
                        await _retire(settings, worm, site, opened, trim_after)
                    if not watch:
                        return problems
        finally:
            await site.close()
            for manager in opened:
                await manager.close()

    try:
        problems = settings.run(work)
    except KeyboardInterrupt:
        return  # the way a watch ends
    if problems:
        raise click.exceptions.Exit(1)


async def _retire(
    settings: Settings, worm: Client, site: Site, opened: list[ResourceManager], after_s: float
) -> None:
    byname = {manager.name: manager for manager in opened}
    before = time.time() - after_s
    for name in await retire(worm, site.space, site.host.resolver, byname, before=before):
        settings.answer({"trimmed": name}, f"{name}  trimmed")


def _tell(settings: Settings, r: Resolution) -> None:
    outcome = r.decision.outcome if r.decision else UNDECIDED
    if settings.json:
        emit(
            {
                "id": str(r.gid.id),
                "manager": r.gid.manager,
                "outcome": outcome,
                "problem": r.problem,
            }
        )
    else:
        say(f"{r.gid.id} at {r.gid.manager}: {r.problem or outcome}", STYLES[outcome])


def _tell_of_others(settings: Settings, others: list[Gid], told: set[Gid]) -> set[Gid]:
    """Name each branch of other transaction spaces once, as long as it is there."""
    for gid in others:
        if gid in told:
            continue
        answer = {"left_alone": str(gid), "manager": gid.manager}
        line = f"{gid}: left alone, of another transaction space or an older format"
        settings.answer(answer, line, note)
    return set(others)


def _metrics(site: Site, at: Endpoint | None) -> AbstractAsyncContextManager[None]:
    """Let Prometheus ask for the site's metrics meanwhile, if it is said where."""
    return serving_metrics(SiteMetrics(site), at, "--metrics") if at else nullcontext()


@tx.command()
@click.argument("name")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), required=True, help="Its directory."
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=PORT, default=0, help="Default: chosen.")
@metrics_option
@space_option
@common
def serve(
    settings: Settings,
    name: str,
    data: Path,
    host: str,
    port: int,
    metrics: Endpoint | None,
    space: str,
) -> None:
    """Serve a key-value store that takes part in transactions, until Ctrl-C or SIGTERM."""

    async def work(worm: Client) -> None:
        store = await KeyValueStore.open(name, LmdbStore(data))
        site = Site(worm, space=space, managers=[store])
        try:
            async with _metrics(site, metrics):
                address = await site.start(host, port)
                collect_seldom()
                settings.answer({"manager": name, "address": address}, f"{name}=kv://{address}")
                await asyncio.Event().wait()
        finally:
            await site.close()
            await store.close()

    settings.run_until_interrupted(work)
