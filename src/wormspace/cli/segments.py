"""Calls on spaces and segments: alloc, check, tail, head, spaces, trim, trim-prefix."""

from __future__ import annotations

import click

from wormspace.cli.arguments import segment_argument, value_bytes
from wormspace.cli.settings import Settings, common
from wormspace.cli.show import as_json_value, emit, escaped, note, printable, say
from wormspace.space.client import Client
from wormspace.space.segment import Segment
from wormspace.space.space import DEFAULT_SIZE


def _segment_json(segment: Segment) -> dict[str, object]:
    return {
        "space": segment.space.name,
        "segment": segment.number,
        "size": segment.size,
        "metadata": as_json_value(segment.metadata),
    }


@click.command()
@click.argument("space")
@click.argument("metadata", default="")
@click.option(
    "--size",
    type=click.IntRange(min=1),
    default=DEFAULT_SIZE,
    show_default=True,
    help="How many registers it has.",
)
@common
def alloc(settings: Settings, space: str, metadata: str, size: int) -> None:
    """Allocate the next segment of SPACE.

    METADATA says what it is for (`-` reads it from standard input).
    """
    payload = value_bytes(metadata)

    async def work(worm: Client) -> Segment:
        return await worm.space(space).alloc(payload, size)

    segment = settings.run(work)
    if settings.json:
        emit(_segment_json(segment))
    else:
        say(f"{printable(space)}/{segment.number}")


@click.command()
@segment_argument
@common
def check(settings: Settings, segment: tuple[str, int]) -> None:
    """Show what SPACE/SEGMENT was allocated for."""
    space, number = segment

    async def work(worm: Client) -> Segment:
        return await worm.space(space).segment(number)

    found = settings.run(work)
    if settings.json:
        emit(_segment_json(found))
    else:
        say(escaped(found.metadata))
        note(f"{found.size} registers")


@click.command()
@click.argument("space")
@common
def tail(settings: Settings, space: str) -> None:
    """Show how many segments SPACE ever had."""

    async def work(worm: Client) -> int:
        return await worm.space(space).tail()

    _number(settings, space, "tail", settings.run(work))


@click.command()
@click.argument("space")
@common
def head(settings: Settings, space: str) -> None:
    """Show the first segment of SPACE that is not trimmed.

    Where single segments beyond a trimmed prefix were trimmed as well, it is one that follows a
    trimmed one.
    """

    async def work(worm: Client) -> int:
        return await worm.space(space).head()

    _number(settings, space, "head", settings.run(work))


def _number(settings: Settings, space: str, what: str, number: int) -> None:
    if settings.json:
        emit({"space": space, what: number})
    else:
        say(str(number))


@click.command()
@common
def spaces(settings: Settings) -> None:
    """List the spaces that hold something."""

    async def work(worm: Client) -> list[str]:
        return await worm.spaces()

    names = settings.run(work)
    if settings.json:
        emit({"spaces": names})
        return
    for name in names:
        say(printable(name))


@click.command()
@segment_argument
@common
def trim(settings: Settings, segment: tuple[str, int]) -> None:
    """Make SPACE/SEGMENT garbage, for ever."""
    space, number = segment

    async def work(worm: Client) -> None:
        await worm.space(space).trim(number)

    settings.run(work)
    if settings.json:
        emit({"space": space, "trimmed": [number, number + 1]})
    else:
        note(f"{printable(space)}/{number} is trimmed")


@click.command("trim-prefix")
@click.argument("space")
@click.argument("stop", type=click.IntRange(min=0))
@common
def trim_prefix(settings: Settings, space: str, stop: int) -> None:
    """Make all segments of SPACE below STOP garbage, for ever."""

    async def work(worm: Client) -> None:
        await worm.space(space).trim_prefix(stop)

    settings.run(work)
    if settings.json:
        emit({"space": space, "trimmed": [0, stop]})
    else:
        note(f"the segments of {printable(space)} below {stop} are trimmed")
