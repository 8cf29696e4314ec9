"""The two frames: a request and its answer, matched by number."""

from __future__ import annotations

import msgspec


class Request(msgspec.Struct, frozen=True, array_like=True):
    """`body` means something to the service of that name."""

    id: int
    service: str
    body: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What came of request `id`: a body, or, if `failed`, a text that says why there is none."""

    id: int
    body: bytes
    failed: bool = False


encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
