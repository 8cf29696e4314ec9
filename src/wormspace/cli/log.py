"""`wormspace log`: a shared log as Unix tools like it, lines in and lines out."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wormspace.cli.arguments import PORT, Amount
from wormspace.cli.settings import Settings, common
from wormspace.cli.show import (
    as_json_value,
    cell,
    emit,
    escaped,
    note,
    notes,
    print_table,
    printable,
    say,
    size,
    table,
)
from wormspace.log import DamagedEntry, Entry, Log
from wormspace.runtime.collector import collect_seldom
from wormspace.worm import Worm

T = TypeVar("T")

BATCH = 1000
PAGE = 2000
PROGRESS_FROM = 10_000

name_argument = click.argument("name", metavar="LOG")


@click.group("log")
def log() -> None:
    """A shared, totally ordered log: append, read, follow, trim."""


def _run(settings: Settings, name: str, work: Callable[[Log], Awaitable[T]], **options: Any) -> T:
    async def opened(worm: Worm) -> T:
        return await work(await worm.log(name, **options))

    return settings.run(opened)


def _header(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE")
    return key, value


# ---------------------------------------------------------------- append


@log.command()
@name_argument
@click.argument("bodies", nargs=-1, metavar="[ENTRY...]")
@click.option("--header", "headers", type=_header, multiple=True, metavar="KEY=VALUE")
@click.option("--stream", "streams", multiple=True, help="A stream they belong to.")
@click.option("--whole", is_flag=True, help="All of standard input is one entry, not each line.")
@common
def append(
    settings: Settings,
    name: str,
    bodies: tuple[str, ...],
    headers: tuple[tuple[str, str], ...],
    streams: tuple[str, ...],
    whole: bool,
) -> None:
    """Append each ENTRY; without one, each line of standard input.  Prints the positions."""
    given = [body.encode("utf-8", "surrogateescape") for body in bodies]
    if whole:
        given = [sys.stdin.buffer.read()]

    async def work(opened: Log) -> int:
        count = 0
        with _progress("appended", None) as advance:
            async for batch in _batches(given):
                positions = await opened.append_many(batch, headers=dict(headers), streams=streams)
                for position in positions:
                    if settings.json:
                        emit({"log": name, "position": position})
                    else:
                        sys.stdout.write(f"{position}\n")
                sys.stdout.flush()
                count += len(positions)
                advance(count)
        return count

    note(f"{_run(settings, name, work)} appended to {printable(name)}")


async def _batches(given: list[bytes]) -> AsyncIterator[list[bytes]]:
    """What to append: the arguments, or standard input, as many lines as there are at once."""
    if given:
        for at in range(0, len(given), BATCH):
            yield given[at : at + BATCH]
        return
    lines: asyncio.Queue[bytes | None] = asyncio.Queue(4 * BATCH)
    loop = asyncio.get_running_loop()

    def feed() -> None:
        for line in sys.stdin.buffer:
            asyncio.run_coroutine_threadsafe(lines.put(line.removesuffix(b"\n")), loop).result()
        asyncio.run_coroutine_threadsafe(lines.put(None), loop).result()

    feeding = loop.run_in_executor(None, feed)
    over = False
    while not over:
        batch: list[bytes] = []
        line = await lines.get()
        while line is not None:
            batch.append(line)
            if len(batch) >= BATCH or lines.empty():
                break
            line = lines.get_nowait()
        over = line is None
        if batch:
            yield batch
    await feeding


@contextmanager
def _progress(what: str, total: int | None) -> Any:
    """A bar on standard error, where that is a terminal and standard output is not."""
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=notes,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=sys.stdout.isatty() or not notes.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


# ---------------------------------------------------------------- read


def _positions(text: str) -> tuple[int, int | None]:
    """POSITION, or START:STOP, either of which may be left out."""
    start, colon, stop = text.partition(":")
    if not all(part.isdecimal() for part in (start, stop) if part) or not (start or colon):
        raise click.BadParameter(f"{text!r} is not POSITION or START:STOP")
    if not colon:
        return int(start), int(start) + 1
    return (int(start) if start else -1), (int(stop) if stop else None)


@log.command()
@name_argument
@click.argument("positions", type=_positions, default=":", metavar="[RANGE]")
@click.option("--stream", help="Only the entries of this stream.")
@common
def read(
    settings: Settings, name: str, positions: tuple[int, int | None], stream: str | None
) -> None:
    """Print entries, a line each: all of LOG, or those of RANGE: POSITION or START:STOP.

    Holes are left out.
    """

    async def work(opened: Log) -> None:
        start, stop = positions
        if stop == start + 1:
            entry = await opened.read(start)
            if entry is None:
                note(f"position {start} is a hole")
            else:
                _show(settings, entry)
            return
        start = await opened.first() if start < 0 else start
        tail = await opened.tail()
        stop = tail if stop is None else min(stop, tail)
        if stream is not None:
            for entry in await _read_stream(opened, stream, start):
                if entry.position < stop:
                    _show(settings, entry)
            return
        with _progress("read", stop - start if stop - start > PROGRESS_FROM else None) as advance:
            async for entries, upto in _pages(opened, start, stop):
                for entry in entries:
                    _show(settings, entry)
                advance(upto - start)

    _run(settings, name, work)


async def _read_stream(opened: Log, stream: str, start: int) -> list[Entry]:
    """The entries of a stream; of what is damaged, those behind it."""
    while True:
        try:
            return await opened.read_stream(stream, start)
        except DamagedEntry as e:
            note(str(e))
            start = e.next


async def _pages(opened: Log, start: int, stop: int) -> AsyncIterator[tuple[list[Entry], int]]:
    """The entries at [start, stop), page by page, and where each ends; past what is damaged."""
    at = start
    while at < stop:
        until = min(at + PAGE, stop)
        try:
            entries = await opened.read_range(at, until)
        except DamagedEntry as e:
            note(str(e))
            entries = await opened.read_range(at, e.position)
            until = e.next
        yield entries, min(until, stop)
        at = until


@log.command()
@name_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what is appended, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many of the last entries.",
)
@click.option("--stream", help="Only the entries of this stream.")
@common
def tail(settings: Settings, name: str, follow: bool, lines: int, stream: str | None) -> None:
    """Print the last entries, and with -f those to come."""

    async def work(opened: Log) -> None:
        start = at = await opened.tail()
        first = await opened.first()
        if stream is not None:
            entries = (await _read_stream(opened, stream, first))[-lines:] if lines else []
        else:
            entries = []
            while at > first and len(entries) < lines:
                before = max(first, at - max(lines, 100))
                pages = [page async for page, _ in _pages(opened, before, at)]
                entries = [*(entry for page in pages for entry in page), *entries][-lines:]
                at = before
        for entry in entries:
            _show(settings, entry)
        if follow:
            start = max([start, *(entry.position + 1 for entry in entries)])
            while True:
                try:
                    async for entry in opened.listen(start, stream=stream):
                        _show(settings, entry)
                except DamagedEntry as e:
                    note(str(e))
                    start = e.next

    try:
        _run(settings, name, work)
    except KeyboardInterrupt:
        pass  # the way a follower ends


def _show(settings: Settings, entry: Entry) -> None:
    if settings.json:
        emit(
            {
                "position": entry.position,
                "body": as_json_value(entry.body),
                "headers": dict(entry.headers),
                "streams": list(entry.streams),
                "time": entry.time,
            }
        )
    elif sys.stdout.isatty():
        say(f"{entry.position}  {escaped(entry.body)}")
    else:
        sys.stdout.buffer.write(entry.body + b"\n")
        sys.stdout.buffer.flush()


# ---------------------------------------------------------------- trim, info, streams


@log.command()
@name_argument
@click.argument("position", type=click.IntRange(min=0), required=False)
@click.option("--older", type=Amount(zero=True), metavar="SECONDS", help="By age.")
@click.option("--larger", type=click.IntRange(min=0), metavar="BYTES", help="By total size.")
@common
def trim(
    settings: Settings, name: str, position: int | None, older: float | None, larger: int | None
) -> None:
    """Forget the entries below POSITION, or those --older, or what makes the log --larger."""
    if sum(given is not None for given in (position, older, larger)) != 1:
        raise click.UsageError("give one of POSITION, --older and --larger")

    async def work(opened: Log) -> int:
        if older is not None:
            return await opened.trim_older(older)
        if larger is not None:
            return await opened.trim_larger(larger)
        return await opened.trim(cast(int, position))

    first = _run(settings, name, work)
    line = f"the first position of {printable(name)} is now {first}"
    settings.answer({"log": name, "first": first}, line, note)


@log.command()
@name_argument
@common
def info(settings: Settings, name: str) -> None:
    """Show where LOG begins and ends, its size and its age."""
    found = _run(settings, name, lambda opened: opened.info())
    if settings.json:
        emit(
            {
                "log": found.name,
                "first": found.first,
                "tail": found.tail,
                "bytes": found.bytes,
                "segment_size": found.segment_size,
                "oldest": found.oldest,
                "newest": found.newest,
            }
        )
        return
    rows = table("what", "value")
    rows.show_header = False
    for what, value in (
        ("positions", f"{found.first} to {found.tail}"),
        ("size", size(found.bytes)),
        ("oldest", _ago(found.oldest)),
        ("newest", _ago(found.newest)),
        ("segments of", f"{found.segment_size} positions"),
    ):
        rows.add_row(cell(what, "bold"), cell(value))
    print_table(rows)


def _ago(when: float | None) -> str:
    if when is None:
        return "none"
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when))}"


@log.command()
@name_argument
@common
def streams(settings: Settings, name: str) -> None:
    """List the streams of LOG, each with the last position given to it."""
    found = _run(settings, name, lambda opened: opened.streams())
    if settings.json:
        emit({"log": name, "streams": found})
        return
    rows = table("stream", ">last position")
    for stream, position in found.items():
        rows.add_row(cell(printable(stream)), str(position))
    if found:
        print_table(rows)
    note(f"{len(found)} streams")


# ---------------------------------------------------------------- sequencer


@log.command()
@name_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Where others reach it.")
@click.option("--port", type=PORT, default=0, show_default="any", help="Its port.")
@common
def sequencer(settings: Settings, name: str, host: str, port: int) -> None:
    """Be the sequencer of LOG, or stand by for the one there is, until Ctrl-C."""

    async def work(opened: Log) -> None:
        collect_seldom()
        note(f"sequencing {printable(name)}, or standing by")
        await opened.stand_by()

    try:
        _run(settings, name, work, host=host, port=port)
    except KeyboardInterrupt:
        pass  # the way a server ends
