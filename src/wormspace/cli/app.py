"""The command and its subcommands, put together."""

from __future__ import annotations

import importlib
from typing import Any

import click

import wormspace
from wormspace.cli.exits import complain_in_json, report
from wormspace.cli.settings import Settings, global_options
from wormspace.errors import WormError

SECTIONS: dict[str, dict[str, str]] = {
    "Clusters": {
        "up": "wormspace.cli.up:up",
        "status": "wormspace.cli.status:status",
        "cluster": "wormspace.cli.cluster:cluster",
        "server": "wormspace.cli.server:server",
        "exporter": "wormspace.cli.exporter:exporter",
    },
    "Segments": {
        "alloc": "wormspace.cli.segments:alloc",
        "check": "wormspace.cli.segments:check",
        "tail": "wormspace.cli.segments:tail",
        "head": "wormspace.cli.segments:head",
        "spaces": "wormspace.cli.segments:spaces",
        "trim": "wormspace.cli.segments:trim",
        "trim-prefix": "wormspace.cli.segments:trim_prefix",
    },
    "Registers": {
        "capture": "wormspace.cli.registers:capture",
        "holds": "wormspace.cli.registers:holds",
        "write": "wormspace.cli.registers:write",
        "read": "wormspace.cli.registers:read",
        "settle": "wormspace.cli.registers:settle",
        "listen": "wormspace.cli.listen:listen",
    },
    "Applications": {
        "log": "wormspace.cli.log:log",
        "kv": "wormspace.cli.kv:kv",
        "tx": "wormspace.cli.tx:tx",
    },
    "Tools": {
        "bench": "wormspace.cli.bench:bench_command",
        "sim": "wormspace.cli.sim:sim_command",
    },
}
"""Where each command is: some are heavy, or run on Linux and macOS only, so each is imported when
it is called for."""

COMMANDS = {name: where for commands in SECTIONS.values() for name, where in commands.items()}


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
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            commands = [(n, self.get_command(ctx, n)) for n in names]
            with formatter.section(title):
                formatter.write_dl([(n, c.get_short_help_str(60)) for n, c in commands if c])


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
