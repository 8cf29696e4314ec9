"""Frames to structs and back: msgpack by msgspec, validated while it is decoded.

Text that is no UTF-8, and nesting too deep to follow, are told apart by Python and not by us: they
are bad messages like all others.
"""

from __future__ import annotations

import msgspec

from wormspace.wire.frames import frame
from wormspace.wire.messages import Hello, Refusal, ToClient, ToServer, Welcome

_encoder = msgspec.msgpack.Encoder()
_to_server = msgspec.msgpack.Decoder(ToServer)
_to_client = msgspec.msgpack.Decoder(ToClient)
_hello = msgspec.msgpack.Decoder(Hello)
_greeting: msgspec.msgpack.Decoder[Welcome | Refusal] = msgspec.msgpack.Decoder(Welcome | Refusal)

_NOT_A_MESSAGE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class BadMessage(Exception):
    """Raised by every decode function for bytes that are not such a message."""


def encode(message: ToServer | ToClient | Hello | Welcome | Refusal) -> bytes:
    """The frame of a message, header included."""
    return frame(_encoder.encode(message))


def decode_request(body: bytes) -> ToServer:
    """What a client sent after its greeting."""
    try:
        return _to_server.decode(body)
    except _NOT_A_MESSAGE as e:
        raise BadMessage(str(e)) from e


def decode_reply(body: bytes) -> ToClient:
    """What a server sent after its greeting."""
    try:
        return _to_client.decode(body)
    except _NOT_A_MESSAGE as e:
        raise BadMessage(str(e)) from e


def decode_hello(body: bytes) -> Hello:
    """A client's first frame."""
    try:
        return _hello.decode(body)
    except _NOT_A_MESSAGE as e:
        raise BadMessage(str(e)) from e


def decode_greeting(body: bytes) -> Welcome | Refusal:
    """A server's first frame."""
    try:
        return _greeting.decode(body)
    except _NOT_A_MESSAGE as e:
        raise BadMessage(str(e)) from e
