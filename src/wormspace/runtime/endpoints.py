"""Where somebody listens: a host and a port, as text HOST:PORT.

An IPv6 address stands in brackets there, as in URLs (RFC 3986, section 3.2.2): `::1:7001` may be
read in two ways, `[::1]:7001` in one.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from wormspace.errors import UsageError

PORT_MAX = 65_535


class Endpoint(NamedTuple):
    """A host, without brackets, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: Any, least: int = 1) -> Self:
        """The endpoint that HOST:PORT names; the least port is as for `as_port`.

        Raises:
            UsageError: it names none.
        """
        if isinstance(text, str):
            host, _, port = text.rpartition(":")
            bracketed = host[:1] == "[" and host[-1:] == "]"
            host = host[1:-1] if bracketed else host
            if _is_host(host, ipv6=bracketed) and _is_port(port, least):
                return cls(host, int(port))
        hint = "; an IPv6 address is [HOST]:PORT" if str(text).count(":") > 1 else ""
        raise UsageError(f"{text!r} is not HOST:PORT{hint}")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_host(text: str, *, ipv6: bool) -> bool:
    return bool(text) and (":" in text) == ipv6 and not set("[]") & set(text)


def _is_port(text: str, least: int) -> bool:
    plain = text.isascii() and text.isdecimal() and len(text) < 6
    return plain and least <= int(text) <= PORT_MAX


def as_port(value: Any, least: int) -> int:
    """A port's number; the least is 0 where the system may choose one, and else 1.

    Raises:
        UsageError: it is none.
    """
    if type(value) is int and least <= value <= PORT_MAX:
        return value
    raise UsageError(f"a port is an int from {least} to {PORT_MAX}, not {value!r}")


def as_listening(host: Any, port: Any) -> Endpoint:
    """Where to listen; port 0 is one that the system chooses.

    Raises:
        UsageError: that is no host and port.
    """
    if not isinstance(host, str):
        raise UsageError(f"a host is a str, not {host!r}")
    return Endpoint(host, as_port(port, 0))
