"""The frames: a greeting, then requests and their answers, matched by number.

The caller greets and goes on at once; a service that does not speak its version answers `REFUSED`
and hangs up, and has looked at none of what follows.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from wormspace.wire.codec import decoding

VERSIONS = (1,)
"""The versions of this protocol that are spoken."""

REFUSED = 0
"""The number of the answer to a greeting that is refused; requests are numbered from 1."""


class Greeting(msgspec.Struct, frozen=True, array_like=True, tag="wormspace-rpc"):
    """The caller's first frame: the versions it speaks."""

    versions: list[int]


class Request(msgspec.Struct, frozen=True, array_like=True):
    """`body` means something to the service of that name."""

    id: int
    service: str
    body: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What came of request `id`: a body, or, if `failed`, a text that says why there is none.

    `absent`: because there is no service of that name.
    """

    id: int
    body: bytes
    failed: bool = False
    absent: bool = False


encode = msgspec.msgpack.Encoder().encode
decode_greeting: Callable[[bytes], Greeting] = decoding(Greeting)
decode_request: Callable[[bytes], Request] = decoding(Request)
decode_answer: Callable[[bytes], Answer] = decoding(Answer)
