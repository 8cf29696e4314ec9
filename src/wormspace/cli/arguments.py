"""What people type for a segment, a range of registers, an address, a token or a value.

Plain functions: click takes them as types, and shows what is wrong with the argument.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import click

from wormspace.errors import BadAddress, BadToken, UsageError
from wormspace.registers.token import Token
from wormspace.runtime.endpoints import PORT_MAX, Endpoint
from wormspace.space.address import Address
from wormspace.space.arguments import MAX_TIMEOUT_S


def segment_name(text: str) -> tuple[str, int]:
    """SPACE/SEGMENT; the space's name may itself contain slashes."""
    space, _, number = text.rpartition("/")
    if not space or not number.isdecimal():
        raise click.BadParameter(f"{text!r} is not SPACE/SEGMENT, for instance orders/0")
    return space, int(number)


def offset_range(text: str) -> tuple[int, int | None]:
    """OFFSET, or START:STOP without the stop; either end may be left out."""
    lo, colon, hi = text.partition(":")
    if not all(end.isdecimal() for end in ((lo or "0", hi or "0") if colon else (lo,))):
        raise click.BadParameter(f"{text!r} is not OFFSET or START:STOP")
    if not colon:
        return int(lo), int(lo) + 1
    return int(lo or 0), int(hi) if hi else None


def address(text: str) -> Address:
    """SEGMENT, or SEGMENT/OFFSET."""
    try:
        return Address.parse(text if "/" in text else f"{text}/0")
    except BadAddress:
        raise click.BadParameter(f"{text!r} is not SEGMENT or SEGMENT/OFFSET") from None


def token_text(text: str) -> Token:
    """A capture token as `wormspace capture` prints it."""
    try:
        return Token.parse(text)
    except BadToken as e:
        raise click.BadParameter(str(e)) from e


def endpoints(text: str) -> list[Endpoint]:
    """HOST:PORT,..."""
    try:
        return [Endpoint.parse(one) for one in text.split(",")]
    except UsageError as e:
        raise click.BadParameter(str(e)) from None


def listening_at(text: str) -> Endpoint:
    """PORT, on this machine only, or HOST:PORT; port 0 is one that the system chooses."""
    port = text.removeprefix(":")
    try:
        return Endpoint.parse(text if ":" in port else f"127.0.0.1:{port}", least=0)
    except UsageError:
        raise click.BadParameter(f"{text!r} is not PORT or HOST:PORT") from None


def value_bytes(text: str) -> bytes:
    """The bytes that were typed; `-` is standard input."""
    if text == "-":
        return sys.stdin.buffer.read()
    return text.encode("utf-8", "surrogateescape")


class Amount(click.FloatRange):
    """A number from 0 on that has an end, such as seconds.

    Not-a-number lies within every range: it is neither below nor above.
    """

    def __init__(self, *, zero: bool = False) -> None:
        super().__init__(min=0, max=MAX_TIMEOUT_S, min_open=not zero)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found: float = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is no number.", param, ctx)
        return found


OFFSET = click.IntRange(min=0)
PORT = click.IntRange(0, PORT_MAX)
segment_argument = click.argument("segment", type=segment_name, metavar="SPACE/SEGMENT")
range_argument = click.argument("registers", type=offset_range, default="0:", metavar="[RANGE]")
