"""`wormspace listen`: what happens in a space, as it happens."""

from __future__ import annotations

import click

from wormspace.cli.arguments import address
from wormspace.cli.settings import Settings, common
from wormspace.cli.show import as_json_value, console, emit, escaped, note, printable
from wormspace.space.address import Address
from wormspace.space.client import Client
from wormspace.space.events import Allocated, Event, SegmentsTrimmed, Written


@click.command()
@click.argument("space")
@click.option(
    "--from",
    "start",
    type=address,
    metavar="ADDRESS",
    default="0",
    show_default=True,
    help="Where to begin: SEGMENT or SEGMENT/OFFSET.",
)
@click.option("--stop", type=click.IntRange(min=1), help="The segment to stop before.")
@common
def listen(settings: Settings, space: str, start: Address, stop: int | None) -> None:
    """Follow a space as it is written, until Ctrl-C.

    First what is there already, then what comes, as it is decided.
    """

    async def work(worm: Client) -> None:
        note(f"following {printable(space)}")
        async for event in worm.space(space).listen(start, stop=stop):
            if settings.json:
                emit(_event_json(space, event))
            else:
                _print(space, event)

    settings.run_until_interrupted(work)


def _event_json(space: str, event: Event) -> dict[str, object]:
    match event:
        case Written(place, value):
            return {
                "event": "written",
                "space": space,
                "segment": place.segment,
                "offset": place.offset,
                "value": as_json_value(value),
            }
        case Allocated(segment, size, metadata):
            return {
                "event": "allocated",
                "space": space,
                "segment": segment,
                "size": size,
                "metadata": as_json_value(metadata),
            }
        case SegmentsTrimmed(segment, stop):
            return {"event": "trimmed", "space": space, "segment": segment, "stop": stop}


def _print(space: str, event: Event) -> None:
    name = printable(space)
    match event:
        case Written(place, value):
            console.out(f"{name}/{place}  {escaped(value)}")
        case Allocated(segment, size, metadata):
            what = f"allocated, {size} registers: {escaped(metadata)}"
            console.out(f"{name}/{segment}  {what}", style="cyan")
        case SegmentsTrimmed(segment, stop):
            which = f"{segment}" if stop == segment + 1 else f"{segment}..{stop - 1}"
            console.out(f"{name}/{which}  trimmed", style="magenta")
