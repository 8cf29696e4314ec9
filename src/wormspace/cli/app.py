"""The command and its subcommands, put together."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import click

import wormspace
from wormspace.cli.exits import complain_in_json, report
from wormspace.cli.listen import listen
from wormspace.cli.registers import capture, holds, read, settle, write
from wormspace.cli.segments import alloc, check, head, spaces, tail, trim, trim_prefix
from wormspace.cli.settings import Settings, global_options
from wormspace.cli.status import status
from wormspace.errors import WormError

LATER = {
    "up": ("wormspace.cli.up", "up"),
    "cluster": ("wormspace.cli.cluster", "cluster"),
    "server": ("wormspace.cli.server", "server"),
    "kv": ("wormspace.cli.kv", "kv"),
    "tx": ("wormspace.cli.tx", "tx"),
    "log": ("wormspace.cli.log", "log"),
    "bench": ("wormspace.cli.bench", "bench_command"),
    "sim": ("wormspace.cli.sim", "sim_command"),
    "exporter": ("wormspace.cli.exporter", "exporter"),
}
"""Commands that are heavy, or run on Linux and macOS only: imported when they are called for."""

SECTIONS = (
    ("Clusters", ("up", "status", "cluster", "server", "exporter")),
    ("Segments", ("alloc", "check", "tail", "head", "spaces", "trim", "trim-prefix")),
    ("Registers", ("capture", "holds", "write", "read", "settle", "listen")),
    ("Applications", ("log", "kv", "tx")),
    ("Tools", ("bench", "sim")),
)


class Wormspace(click.Group):
    """The command: errors become one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        settings = ctx.ensure_object(Settings)
        try:
            return super().invoke(ctx)
        except click.UsageError as e:
            e.show()
            if settings.json:
                complain_in_json("UsageError", e.format_message(), e.exit_code, {})
            ctx.exit(e.exit_code)
        except BrokenPipeError:
            raise  # whoever read the output has enough: click ends quietly
        except (WormError, OSError) as e:
            ctx.exit(report(e, as_json=settings.json))

    def list_commands(self, ctx: click.Context) -> list[str]:
        later = [name for name, (module, _) in LATER.items() if importlib.util.find_spec(module)]
        return [*super().list_commands(ctx), *later]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in LATER and cmd_name in self.list_commands(ctx):
            module, name = LATER[cmd_name]
            command: click.Command = getattr(importlib.import_module(module), name)
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        present = set(self.list_commands(ctx))
        for title, names in SECTIONS:
            commands = [(n, self.get_command(ctx, n)) for n in names if n in present]
            rows = [(n, c.get_short_help_str(60)) for n, c in commands if c is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


@click.group(cls=Wormspace, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(wormspace.__version__, prog_name="wormspace")
@global_options
def cli() -> None:
    """An address space of write-once registers: replicated, decided once, readable for ever.

    Try it: `wormspace up` in one terminal; in another, in the same directory:

    \b
      wormspace alloc orders "what it is for"
      TOKEN=$(wormspace capture orders/0)
      wormspace write orders/0 0 "decided, for ever" --token $TOKEN
      wormspace read orders/0 0
      wormspace status orders/0

    \b
    Exit codes: 0 done, 1 failed, 2 misuse, 3 somebody else was first, 4 unavailable
    (the outcome is unknown), 5 trimmed, 6 refused or the store cannot be used.
    """


for _command in (
    alloc,
    capture,
    check,
    head,
    holds,
    listen,
    read,
    settle,
    spaces,
    status,
    tail,
    trim,
    trim_prefix,
    write,
):
    cli.add_command(_command)
