"""What every command is told: which address space, how long to wait, how to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from wormspace.cli.arguments import Amount
from wormspace.cli.show import emit, say
from wormspace.connecting import connect
from wormspace.errors import UsageError
from wormspace.server.config import load
from wormspace.space.client import DEFAULT_TIMEOUT_S
from wormspace.space.segment import Segment
from wormspace.worm import Worm

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

CLUSTER_FILE = "wormspace.toml"


class NoUrl(UsageError):
    """No address space was named, and none runs from here."""


class Settings(msgspec.Struct):
    """The global options, wherever on the command line they stood."""

    url: str = ""
    timeout: float = DEFAULT_TIMEOUT_S
    json: bool = False

    def target(self) -> str:
        """The URL to connect to.

        Raises:
            NoUrl: none was given, and no cluster file is in the current directory.
            ConfigError: there is one, but it is not right.
        """
        if self.url:
            return self.url
        here = Path(CLUSTER_FILE)
        if not here.exists():
            raise NoUrl(
                "which address space? Give --url (or set WORMSPACE_URL) to file:PATH or "
                f"worm://HOST:PORT,...; or run this where {CLUSTER_FILE} is, which "
                "`wormspace up` makes"
            )
        return load(here).url

    def run(self, work: Callable[[Worm], Awaitable[T]]) -> T:
        """Connect, do the work, disconnect."""

        async def main() -> T:
            async with connect(self.target(), timeout=self.timeout) as worm:
                return await work(worm)

        return asyncio.run(main())

    def run_until_interrupted(self, work: Callable[[Worm], Awaitable[object]]) -> None:
        """As `run`, of work that only Ctrl-C or SIGTERM ends."""
        try:
            self.run(work)
        except KeyboardInterrupt:
            pass

    def on_segment(self, name: tuple[str, int], work: Callable[[Segment], Awaitable[T]]) -> T:
        """Connect, do the work on a segment, disconnect."""
        space, number = name

        async def found(worm: Worm) -> T:
            return await work(await worm.space(space).segment(number))

        return self.run(found)

    def answer(
        self, found: Mapping[str, object], line: str, tell: Callable[[str], None] = say
    ) -> None:
        """Show a result: to scripts as an object of JSON, to people as a line."""
        if self.json:
            emit(found)
        else:
            tell(line)


def _keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if ctx.get_parameter_source(str(parameter.name)) != click.core.ParameterSource.DEFAULT:
        setattr(ctx.ensure_object(Settings), str(parameter.name), value)


def global_options(command: Command) -> Command:
    """`--url`, `--timeout` and `--json`, before the command's name or after it."""
    for option in reversed(
        (
            click.option(
                "--url",
                envvar="WORMSPACE_URL",
                show_envvar=True,
                expose_value=False,
                callback=_keep,
                help=f"The address space: file:PATH or worm://HOST:PORT,... "
                f"Default: the cluster of {CLUSTER_FILE} in the current directory.",
            ),
            click.option(
                "--timeout",
                type=Amount(),
                default=DEFAULT_TIMEOUT_S,
                show_default=True,
                expose_value=False,
                callback=_keep,
                metavar="SECONDS",
                help="The deadline of connecting and of every call.",
            ),
            click.option(
                "--json",
                is_flag=True,
                expose_value=False,
                callback=_keep,
                help="Answer in JSON, one object a line.",
            ),
        )
    ):
        command = option(command)
    return command


def common(command: Command) -> Command:
    """A command's global options, and the settings as its first argument."""
    passed: Any = click.pass_obj(command)
    return global_options(passed)  # type: ignore[no-any-return]
