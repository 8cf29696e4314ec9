"""`wormspace status`: the servers, and a segment register by register.

Needs no majority: it shows who is there exactly when too few are.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import msgspec
from rich.text import Text

from wormspace.addresses import METADATA
from wormspace.cli.arguments import offset_range, segment_name
from wormspace.cli.exits import UNAVAILABLE
from wormspace.cli.settings import CLUSTER_FILE, Settings, common
from wormspace.cli.show import (
    as_json_value,
    cell,
    emit,
    escaped,
    note,
    preview,
    print_table,
    printable,
    sign,
    size,
    table,
)
from wormspace.connecting import survey
from wormspace.errors import BadAddress, Unavailable
from wormspace.knobs import KNOBS
from wormspace.paxos.quorum import majority
from wormspace.registers.interface import RegisterState, ServerState
from wormspace.server.config import load
from wormspace.space.client import Client
from wormspace.space.metadata import Metadata

SHOWN = 1024
"""A segment's registers that are shown unless a range is given."""

FIRST_LOOK_S = 1.0
"""How long `status` waits for a silent server: shorter than a call, since silence is an answer."""


@click.command()
@click.argument("segment", type=segment_name, required=False, metavar="[SPACE/SEGMENT]")
@click.argument("registers", type=offset_range, required=False, metavar="[RANGE]")
@common
def status(
    settings: Settings,
    segment: tuple[str, int] | None,
    registers: tuple[int, int | None] | None,
) -> None:
    """Show the servers, or a segment register by register.

    With SPACE/SEGMENT: what each server holds of its registers (of the first 1024, or of RANGE:
    OFFSET or START:STOP).  Of a long range that is a table, or an object of JSON, for each 16,384
    registers.  Exits with 4 if some partition has too few servers to work.
    """
    works = asyncio.run(_show(settings, segment, registers))
    if not works:
        raise SystemExit(UNAVAILABLE)


async def _show(
    settings: Settings,
    segment: tuple[str, int] | None,
    registers: tuple[int, int | None] | None,
) -> bool:
    worm = await survey(settings.target(), timeout=settings.timeout)
    try:
        servers = await worm.servers(timeout=min(FIRST_LOOK_S, settings.timeout))
        works = all(_has_majority(members) for members in _partitions(servers))
        if segment is None:
            _show_servers(settings, servers)
        else:
            await _show_segment(settings, worm, segment, registers)
        return works
    finally:
        await worm.close()


# ------------------------------------------------------------ servers


def _partitions(servers: list[ServerState]) -> list[list[ServerState]]:
    count = max((s.partition for s in servers), default=-1) + 1
    return [[s for s in servers if s.partition == i] for i in range(count)]


def _has_majority(members: list[ServerState]) -> bool:
    return sum(s.reachable for s in members) >= majority(len(members))


def _show_servers(settings: Settings, servers: list[ServerState]) -> None:
    names = _names()
    if settings.json:
        found = [{**msgspec.structs.asdict(s), "name": names.get(s.server)} for s in servers]
        emit({"servers": found, "works": all(map(_has_majority, _partitions(servers)))})
        return
    rows = table(
        "server",
        "address",
        "partition",
        "state",
        ">written",
        ">read",
        ">clients",
        ">store",
    )
    for s in servers:
        f = s.metrics
        rows.add_row(
            cell(names.get(s.server, "")),
            cell(s.server),
            str(s.partition + 1),
            _server_state(s),
            *(
                (
                    f"{f.get('registers_written', 0):,}",
                    f"{f.get('registers_read', 0):,}",
                    f"{f['connections']:,}" if "connections" in f else "-",
                    size(f.get("store_bytes", 0)),
                )
                if s.reachable
                else ("", "", "", "")
            ),
        )
    print_table(rows)
    for i, members in enumerate(_partitions(servers)):
        alive = sum(s.reachable for s in members)
        spare = alive - majority(len(members))
        if spare < 0:
            fate = "it cannot decide or read anything until a majority is back"
        elif spare < len(members) - majority(len(members)):
            more = f"can lose {spare} more" if spare else "needs all of them"
            fate = f"it works, and {more}"
        else:
            fate = "it works"
        style = "bold red" if spare < 0 else "dim"
        note(f"partition {i + 1}: {alive} of {len(members)} servers are up; {fate}", style)


def _server_state(s: ServerState) -> Text:
    """Whether it is up, and what troubles it."""
    if not s.reachable:
        return cell(f"down: {s.trouble}", "bold red")
    return cell(f"up, but {s.trouble}", "bold yellow") if s.trouble else cell("up", "green")


def _names() -> dict[str, str]:
    """Servers' names by address, where a cluster file says them."""
    here = Path(CLUSTER_FILE)
    return {str(s.endpoint): s.name for s in load(here).server} if here.exists() else {}


# ------------------------------------------------------------ one segment


class Run(msgspec.Struct, frozen=True):
    """Neighbouring registers of which every server holds just the same."""

    start: int
    stop: int
    states: tuple[RegisterState | None, ...]


async def _show_segment(
    settings: Settings,
    worm: Client,
    segment: tuple[str, int],
    registers: tuple[int, int | None] | None,
) -> None:
    space, number = segment
    record = await _metadata(settings, worm, segment)
    start, stop = registers or (0, min(SHOWN, record.size))
    stop = record.size if stop is None else min(stop, record.size)
    if start >= stop:
        raise BadAddress(f"{space}/{number} has registers 0 to {record.size - 1}, not {start}")
    if not settings.json:
        what = f"{record.size} registers, {escaped(record.payload)}"
        note(f"{printable(space)}/{number}: {what}", "bold")
    for at in range(start, stop, KNOBS.cli_status_registers):
        end = min(stop, at + KNOBS.cli_status_registers)
        deadline = worm.deadline(min(FIRST_LOOK_S, settings.timeout))
        held = await worm.registers.inspect(segment, at, end, deadline)
        runs = _runs(held, at, end)
        if settings.json:
            emit(_segment_json(segment, record, held, runs))
        else:
            _print_runs(held, runs)
    if settings.json:
        return
    known = sign("✓", "*")
    note(f"2.ab accepted under that ballot, {known} known to be decided; (3.cd) promised to it")
    if stop < record.size and registers is None:
        note(f"registers {stop}:{record.size} are not shown; give a range")


def _print_runs(held: dict[str, list[RegisterState] | None], runs: list[Run]) -> None:
    names = _names()
    rows = table(">register", "value", *(names.get(server, server) for server in held))
    for run in runs:
        which = f"{run.start}" if run.stop == run.start + 1 else f"{run.start}:{run.stop}"
        cells = [
            cell("silent", "red") if answer is None else _state(state)
            for answer, state in zip(held.values(), run.states, strict=True)
        ]
        rows.add_row(which, cell(_value(run)), *cells)
    print_table(rows)


async def _metadata(settings: Settings, worm: Client, segment: tuple[str, int]) -> Metadata:
    """Size and payload; without a majority, as any server has it."""
    space, number = segment
    try:
        found = await worm.space(space).segment(number, timeout=settings.timeout)
        return Metadata(found.size, found.metadata, b"")
    except Unavailable:
        deadline = worm.deadline(min(FIRST_LOOK_S, settings.timeout))
        held = await worm.registers.inspect(segment, METADATA, METADATA + 1, deadline)
        for states in held.values():
            for state in states or ():
                if state.value is not None:
                    return Metadata.decode(state.value)
        raise


def _runs(held: dict[str, list[RegisterState] | None], start: int, stop: int) -> list[Run]:
    """The registers in order, neighbours that are alike and empty as one."""
    by_server = [{s.offset: s for s in states or ()} for states in held.values()]
    runs: list[Run] = []
    last: tuple[object, ...] = ()
    for offset in range(start, stop):
        states = tuple(known.get(offset) for known in by_server)
        shape = tuple(s and (s.promised, s.accepted) for s in states)
        empty = all(s is None or s.value is None for s in states)
        if runs and empty and shape == last:
            runs[-1] = msgspec.structs.replace(runs[-1], stop=offset + 1)
        else:
            runs.append(Run(offset, offset + 1, states))
        last = shape
    return runs


def _value(run: Run) -> str:
    """What the servers hold: the decided value, or every value that was accepted."""
    held = [s for s in run.states if s is not None and s.value is not None]
    known = [s for s in held if s.decided] or held
    return " | ".join(dict.fromkeys(preview(s.value or b"") for s in known))


def _state(state: RegisterState | None) -> Text:
    if state is None:
        return cell("-", "dim")
    if state.value is None:
        return cell(f"({state.promised})", "dim")
    known = f" {sign('✓', '*')}" if state.decided else ""
    later = "" if state.promised in ("-", state.accepted) else f" ({state.promised})"
    return cell(f"{state.accepted}{known}{later}", "green" if state.decided else "yellow")


def _segment_json(
    segment: tuple[str, int],
    record: Metadata,
    held: dict[str, list[RegisterState] | None],
    runs: list[Run],
) -> dict[str, object]:
    return {
        "space": segment[0],
        "segment": segment[1],
        "size": record.size,
        "metadata": as_json_value(record.payload),
        "silent": [server for server, states in held.items() if states is None],
        "registers": [
            {
                "start": run.start,
                "stop": run.stop,
                "servers": {
                    server: {
                        "promised": state.promised,
                        "accepted": state.accepted,
                        "decided": state.decided,
                        "value": as_json_value(state.value),
                    }
                    for server, state in zip(held, run.states, strict=True)
                    if state is not None
                },
            }
            for run in runs
        ],
    }
