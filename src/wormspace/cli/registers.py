"""Calls on registers: capture, holds, write, read, settle."""

from __future__ import annotations

import sys
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
    escaped,
    note,
    preview,
    print_table,
    printable,
    say,
    table,
)
from wormspace.registers.interface import Captured
from wormspace.registers.token import Token
from wormspace.space.client import Client


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

    async def work(worm: Client) -> Captured:
        found = await worm.space(space).segment(number)
        start, stop = registers
        return await found.capture(start, found.size if stop is None else stop)

    captured = settings.run(work)
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

    async def work(worm: Client) -> bool:
        found = await worm.space(space).segment(number)
        return await found.holds(token, offset)

    stands = settings.run(work)
    if settings.json:
        emit({"space": space, "segment": number, "offset": offset, "holds": stands})
    else:
        say("yes" if stands else "no")
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

    async def work(worm: Client) -> None:
        found = await worm.space(space).segment(number)
        if token is None:
            await found.unsafe_write(offset, payloads[0])
        elif len(payloads) == 1:
            await found.write(offset, payloads[0], token)
        else:
            await found.write_range(offset, payloads, token)

    settings.run(work)
    stop = offset + len(payloads)
    if settings.json:
        emit({"space": space, "segment": number, "written": list(range(offset, stop))})
    else:
        what = f"{offset}" if stop == offset + 1 else f"{offset}:{stop}"
        note(f"{printable(space)}/{number} {what} is decided")


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

    async def work(worm: Client) -> list[bytes | None]:
        found = await worm.space(space).segment(number)
        return await found.read_range(start, stop)

    values = settings.run(work)
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
        _show_one(values[0])
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

    async def work(worm: Client) -> bytes:
        found = await worm.space(space).segment(number)
        return await found.settle(offset, otherwise.encode())

    value = settings.run(work)
    if settings.json:
        emit({"space": space, "segment": number, "offset": offset, "value": as_json_value(value)})
    else:
        _show_one(value)


def _show_one(value: bytes | None) -> None:
    if value is None:
        note("empty")
    elif sys.stdout.isatty():
        say(escaped(value))
    else:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()


def _registers_json(held: Mapping[int, bytes]) -> list[dict[str, object]]:
    return [{"offset": o, "value": as_json_value(v)} for o, v in sorted(held.items())]
