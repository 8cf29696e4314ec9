"""Calls on spaces and segments: alloc, check, tail, head, spaces, trim, trim-prefix."""

from __future__ import annotations

import click

from wormspace.cli.arguments import segment_argument, value_bytes
from wormspace.cli.settings import Settings, common
from wormspace.cli.show import as_json_value, emit, escaped, note, printable, say
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
    segment = settings.run(lambda worm: worm.space(space).alloc(payload, size))
    settings.answer(_segment_json(segment), f"{printable(space)}/{segment.number}")


@click.command()
@segment_argument
@common
def check(settings: Settings, segment: tuple[str, int]) -> None:
    """Show what SPACE/SEGMENT was allocated for."""
    space, number = segment
    found = settings.run(lambda worm: worm.space(space).segment(number))
    settings.answer(_segment_json(found), escaped(found.metadata))
    if not settings.json:
        note(f"{found.size} registers")


@click.command()
@click.argument("space")
@common
def tail(settings: Settings, space: str) -> None:
    """Show how many segments SPACE ever had."""
    found = settings.run(lambda worm: worm.space(space).tail())
    settings.answer({"space": space, "tail": found}, str(found))


@click.command()
@click.argument("space")
@common
def head(settings: Settings, space: str) -> None:
    """Show the first segment of SPACE that is not trimmed.

    Where single segments beyond a trimmed prefix were trimmed as well, it is one that follows a
    trimmed one.
    """
    found = settings.run(lambda worm: worm.space(space).head())
    settings.answer({"space": space, "head": found}, str(found))


@click.command()
@common
def spaces(settings: Settings) -> None:
    """List the spaces that hold something."""
    names = settings.run(lambda worm: worm.spaces())
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
    settings.run(lambda worm: worm.space(space).trim(number))
    answer = {"space": space, "trimmed": [number, number + 1]}
    settings.answer(answer, f"{printable(space)}/{number} is trimmed", note)


@click.command("trim-prefix")
@click.argument("space")
@click.argument("stop", type=click.IntRange(min=0))
@common
def trim_prefix(settings: Settings, space: str, stop: int) -> None:
    """Make all segments of SPACE below STOP garbage, for ever."""
    settings.run(lambda worm: worm.space(space).trim_prefix(stop))
    answer = {"space": space, "trimmed": [0, stop]}
    settings.answer(answer, f"the segments of {printable(space)} below {stop} are trimmed", note)
