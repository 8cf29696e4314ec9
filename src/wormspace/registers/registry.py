"""Which implementations of registers there are: each is found by the scheme of its URLs.

An implementation is an `Implementation` somewhere, and one line that says where: ours stand in
`BUILT_IN`, those of other packages are entry points of the group `wormspace.registers`.  It is
imported when a URL asks for it.  docs/registers.md shows how to add one.
"""

from __future__ import annotations

import random
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol
from urllib.parse import parse_qsl

import msgspec

from wormspace.errors import BadUrl
from wormspace.registers.interface import Registers

GROUP = "wormspace.registers"

BUILT_IN = {
    "memory": "wormspace.server.embedded:MEMORY",
    "file": "wormspace.server.embedded:FILE",
    "worm": "wormspace.registers.paxos.cluster:CLUSTER",
    "spec": "wormspace.registers.spec:SPEC",
}
"""Nobody else's entry point takes the place of one of these."""


class Url(msgspec.Struct, frozen=True):
    """SCHEME:REST?OPTION=VALUE&..., taken apart."""

    scheme: str
    rest: str
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Url:
        """The URL that is written so.

        Raises:
            BadUrl: it is no URL.
        """
        if not isinstance(text, str):
            raise BadUrl(f"a URL is a str, not {type(text).__name__}; for a path, f'file:{{path}}'")
        scheme, colon, rest = text.partition(":")
        if not colon:
            raise BadUrl(f"{text!r} is no URL; try memory:, file:PATH or worm://HOST:PORT,...")
        rest, _, query = rest.partition("?")
        return cls(scheme, rest, dict(parse_qsl(query, keep_blank_values=True)))

    def allow(self, *known: str) -> None:
        """Make sure that there are no other options.

        Raises:
            BadUrl: there is one.
        """
        for name in self.options:
            if name not in known:
                raise BadUrl(
                    f"no option {name!r} in such a URL; there is {', '.join(known) or 'none'}"
                )


class Opener(Protocol):
    """What opens registers."""

    async def __call__(
        self, url: Url, *, rng: random.Random, deadline: float, wait: bool
    ) -> Registers:
        """The registers at a URL.

        Args:
            rng: where all that is random comes from.
            deadline: when to give up, on the running loop's clock.
            wait: until the registers can be used; a tool that shows who is there does not.

        Raises:
            BadUrl: the URL makes no sense.
            Unavailable: they cannot be used yet at the deadline.
            Refused, StoreError: they never will be.
        """


class Implementation(msgspec.Struct, frozen=True):
    """What there is to know of an implementation of registers.

    Attributes:
        usage: how its URLs look, for people.
        embedded: whether nobody outside this process can use the registers that it opens.
        trial: a URL of fresh registers for the tests that every implementation has to pass;
            `{directory}` in it stands for an empty directory.  None if it takes servers.
    """

    open: Opener
    usage: str
    embedded: bool
    trial: str | None = None


def schemes() -> list[str]:
    """The schemes that are known, ours first."""
    others = {entry.name for entry in entry_points(group=GROUP)}
    return [*BUILT_IN, *sorted(others - BUILT_IN.keys())]


def find(scheme: str) -> Implementation:
    """The implementation for URLs of this scheme.

    Raises:
        BadUrl: there is none, or more than one, or it cannot be loaded.
    """
    if scheme in BUILT_IN:
        entries = [EntryPoint(scheme, BUILT_IN[scheme], GROUP)]
    else:
        entries = list(entry_points(group=GROUP, name=scheme))
    if not entries:
        known = ", ".join(f"{name}:" for name in schemes())
        raise BadUrl(f"no register implementation {scheme!r}; there are {known}")
    if len(entries) > 1:
        where = " and ".join(sorted(map(_where, entries)))
        raise BadUrl(f"{scheme}: is the scheme of {where}; uninstall all but one")
    try:
        found = entries[0].load()
    except Exception as e:  # whatever a package does when it is imported
        why = f"{type(e).__name__}: {e}"
        raise BadUrl(f"{scheme}: is at {entries[0].value}, which cannot be loaded: {why}") from e
    if not isinstance(found, Implementation):
        raise BadUrl(f"{scheme}: is at {entries[0].value}, which is no Implementation: {found!r}")
    return found


def _where(entry: EntryPoint) -> str:
    return f"{entry.value} of {entry.dist.name}" if entry.dist else entry.value
