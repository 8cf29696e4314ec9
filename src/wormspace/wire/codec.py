"""Frames to structs and back: msgpack by msgspec, validated while it is decoded."""

from __future__ import annotations

import msgspec

from wormspace.wire.frames import frame
from wormspace.wire.messages import Hello, Refusal, ToClient, ToServer, Welcome

_encoder = msgspec.msgpack.Encoder()
_to_server = msgspec.msgpack.Decoder(ToServer)
_to_client = msgspec.msgpack.Decoder(ToClient)
_hello = msgspec.msgpack.Decoder(Hello)
_greeting: msgspec.msgpack.Decoder[Welcome | Refusal] = msgspec.msgpack.Decoder(Welcome | Refusal)

BadMessage = msgspec.MsgspecError
"""Raised by every decode function for bytes that are not such a message."""


def encode(message: ToServer | ToClient | Hello | Welcome | Refusal) -> bytes:
    """The frame of a message, header included."""
    return frame(_encoder.encode(message))


def decode_request(body: bytes) -> ToServer:
    """What a client sent after its greeting."""
    return _to_server.decode(body)


def decode_reply(body: bytes) -> ToClient:
    """What a server sent after its greeting."""
    return _to_client.decode(body)


def decode_hello(body: bytes) -> Hello:
    """A client's first frame."""
    return _hello.decode(body)


def decode_greeting(body: bytes) -> Welcome | Refusal:
    """A server's first frame."""
    return _greeting.decode(body)
