"""Frames to structs and back: msgpack by msgspec, validated while it is decoded.

Text that is no UTF-8, and nesting too deep to follow, are told apart by Python and not by us: they
are bad messages like all others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from wormspace.malformed import MALFORMED
from wormspace.wire.frames import frame
from wormspace.wire.messages import Hello, Refusal, RequestId, ToClient, ToServer, Welcome

MAX_PROBLEM = 200
"""Characters of an error that are told and logged."""


class BadMessage(Exception):
    """Raised by every decode function for bytes that are not such a message."""


class BadRequest(BadMessage):
    """An envelope whose message is none, or breaks the bounds of a field; `id` is the envelope's.

    The stream is sound: what is wrong can be answered for itself.
    """

    def __init__(self, text: str, request_id: int) -> None:
        super().__init__(text)
        self.id = request_id


class _Envelope(msgspec.Struct, array_like=True):
    """A `ToServer` of which only the id is looked at."""

    id: RequestId
    message: msgspec.Raw


_encoder = msgspec.msgpack.Encoder()
_to_server = msgspec.msgpack.Decoder(ToServer)
_envelope = msgspec.msgpack.Decoder(_Envelope)


def encode(message: ToServer | ToClient | Hello | Welcome | Refusal) -> bytes:
    """The frame of a message, header included."""
    return frame(_encoder.encode(message))


def decode_request(body: bytes) -> ToServer:
    """What a client sent after its greeting.

    Raises:
        BadRequest: it has an id, and can be answered for itself.
        BadMessage: it is nothing that can be understood.
    """
    try:
        return _to_server.decode(body)
    except MALFORMED as e:
        problem = _short(e)
    try:
        envelope = _envelope.decode(body)
    except MALFORMED:
        raise BadMessage(problem) from None
    raise BadRequest(problem, envelope.id)


def _short(error: Exception) -> str:
    """What is wrong, without all that the peer has sent."""
    text = str(error)
    return text if len(text) <= MAX_PROBLEM else text[:MAX_PROBLEM] + "..."


def decoding(kind: Any) -> Callable[[bytes], Any]:
    """A function that decodes messages of this kind, and raises `BadMessage`."""
    decode = msgspec.msgpack.Decoder(kind).decode

    def decoded(body: bytes) -> Any:
        try:
            return decode(body)
        except MALFORMED as e:
            raise BadMessage(_short(e)) from e

    return decoded


decode_reply: Callable[[bytes], ToClient] = decoding(ToClient)
"""What a server sent after its greeting."""

decode_hello: Callable[[bytes], Hello] = decoding(Hello)
"""A client's first frame."""

decode_greeting: Callable[[bytes], Welcome | Refusal] = decoding(Welcome | Refusal)
"""A server's first frame."""
