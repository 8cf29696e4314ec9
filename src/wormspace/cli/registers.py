"""Calls on registers: capture, holds, write, read, settle."""

from __future__ import annotations

from collections.abc import Mapping

import click

from wormspace.cli.arguments import (
    OFFSET,
    range_argument,
    segment_argument,
    token_text,
    value_bytes,
)
from wormspace.cli.exits import RACE_LOST
from wormspace.cli.settings import Settings, common
from wormspace.cli.show import (
    as_json_value,
    cell,
    emit,
    note,
    preview,
    print_table,
    printable,
    say,
    show_value,
    table,
)
from wormspace.registers.token import Token
from wormspace.space.segment import Segment


@click.command()
@segment_argument
@range_argument
@common
def capture(
    settings: Settings, segment: tuple[str, int], registers: tuple[int, int | None]
) -> None:
    """Take the right to write registers; prints a token.

    Of all registers of SPACE/SEGMENT, or of RANGE: OFFSET or START:STOP.

    Hand the token to `wormspace write`, on any machine.  It is good until somebody else captures
    the same register.  With --json, also says what is already written there.
    """
    space, number = segment
    start, stop = registers
    captured = settings.on_segment(
        segment, lambda found: found.capture(start, found.size if stop is None else stop)
    )
    token = captured.token
    if settings.json:
        emit(
            {
                "token": str(token),
                "start": token.start,
                "stop": token.stop,
                "fence": token.fence.hex(),
                "written": _registers_json(captured.written),
            }
        )
        return
    say(str(token))
    free = token.stop - token.start - len(captured.written)
    note(
        f"captured {printable(space)}/{number} [{token.start}:{token.stop}]:"
        f" {free} free, {len(captured.written)} already written"
    )


@click.command()
@segment_argument
@click.argument("offset", type=OFFSET)
@click.option("--token", type=token_text, metavar="TOKEN", required=True, help="The capture.")
@common
def holds(settings: Settings, segment: tuple[str, int], offset: int, token: Token) -> None:
    """Check that a capture still stands.

    Whether nobody captured register OFFSET of SPACE/SEGMENT since; writes nothing.  Exits with 3 if
    somebody did.
    """
    space, number = segment
    stands = settings.on_segment(segment, lambda found: found.holds(token, offset))
    answer = {"space": space, "segment": number, "offset": offset, "holds": stands}
    settings.answer(answer, "yes" if stands else "no")
    if not stands:
        raise SystemExit(RACE_LOST)


@click.command()
@segment_argument
@click.argument("offset", type=OFFSET)
@click.argument("values", nargs=-1, required=True, metavar="VALUE...")
@click.option("--token", type=token_text, metavar="TOKEN", help="The capture under which to write.")
@click.option(
    "--unsafe",
    is_flag=True,
    help="Write without a capture: only where nobody else ever does so to this register.",
)
@common
def write(
    settings: Settings,
    segment: tuple[str, int],
    offset: int,
    values: tuple[str, ...],
    token: Token | None,
    unsafe: bool,
) -> None:
    """Write registers, for ever.

    VALUE goes to register OFFSET of SPACE/SEGMENT, several values to consecutive
    registers; `-` reads one value from standard input.  The same write again, with the same token
    and value, is always safe.
    """
    if (token is None) == (not unsafe):
        raise click.UsageError("give either --token (see `wormspace capture`) or --unsafe")
    if unsafe and len(values) > 1:
        raise click.UsageError("--unsafe writes one register")
    space, number = segment
    payloads = [value_bytes(value) for value in values]

    async def work(found: Segment) -> None:
        if token is None:
            await found.unsafe_write(offset, payloads[0])
        elif len(payloads) == 1:
            await found.write(offset, payloads[0], token)
        else:
            await found.write_range(offset, payloads, token)

    settings.on_segment(segment, work)
    stop = offset + len(payloads)
    what = f"{offset}" if stop == offset + 1 else f"{offset}:{stop}"
    settings.answer(
        {"space": space, "segment": number, "written": list(range(offset, stop))},
        f"{printable(space)}/{number} {what} is decided",
        note,
    )


@click.command()
@segment_argument
@range_argument
@common
def read(settings: Settings, segment: tuple[str, int], registers: tuple[int, int | None]) -> None:
    """Read registers.

    All of SPACE/SEGMENT that are written, or those of RANGE: OFFSET or START:STOP.  The value of
    one register goes to a file or pipe as it is, byte by byte.
    """
    space, number = segment
    start, stop = registers
    values = settings.on_segment(segment, lambda found: found.read_range(start, stop))
    held = {start + i: value for i, value in enumerate(values) if value is not None}
    if settings.json:
        emit(
            {
                "space": space,
                "segment": number,
                "start": start,
                "stop": start + len(values),
                "registers": _registers_json(held),
            }
        )
    elif stop == start + 1:
        show_value(values[0])
    else:
        rows = table(">register", "value")
        for offset, value in held.items():
            rows.add_row(str(offset), cell(preview(value)))
        if held:
            print_table(rows)
        note(f"{len(held)} of {len(values)} registers are written")


@click.command()
@segment_argument
@click.argument("offset", type=OFFSET)
@click.argument("otherwise", default="")
@common
def settle(settings: Settings, segment: tuple[str, int], offset: int, otherwise: str) -> None:
    """Find out what became of an uncertain write, by deciding the register.

    Prints the register's value, for ever: what was half-written, or else OTHERWISE, which is
    written if nothing is met.
    """
    space, number = segment
    value = settings.on_segment(segment, lambda found: found.settle(offset, otherwise.encode()))
    if settings.json:
        emit({"space": space, "segment": number, "offset": offset, "value": as_json_value(value)})
    else:
        show_value(value)


def _registers_json(held: Mapping[int, bytes]) -> list[dict[str, object]]:
    return [{"offset": o, "value": as_json_value(v)} for o, v in sorted(held.items())]
