"""What appenders and sequencers say to each other."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from wormspace.log.tenure import Run


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """Give me the next `count` positions.

    Attributes:
        size: bytes of all the entries that will go there.
        named: (index, streams) for those of the entries that name streams.
        doubt: a ballot under which a write was refused, if there was one.
    """

    count: int
    size: int
    named: tuple[tuple[int, tuple[str, ...]], ...] = ()
    doubt: bytes | None = None


class Given(msgspec.Struct, frozen=True, array_like=True, tag="given"):
    """The positions, ascending.

    Attributes:
        before: bytes of all the entries before the first of these.
        links: for each of the `named`, the last positions of each of its streams.
    """

    runs: tuple[Run, ...]
    before: int
    links: tuple[dict[str, tuple[int, ...]], ...] = ()


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="ping"):
    """Are you there?"""


class Pong(msgspec.Struct, frozen=True, array_like=True, tag="pong"):
    """Yes."""


class LastOf(msgspec.Struct, frozen=True, array_like=True, tag="last"):
    """Where was this stream appended to last?"""

    stream: str


class Last(msgspec.Struct, frozen=True, array_like=True, tag="positions"):
    """There: its last positions, descending, some of which may have become holes."""

    positions: tuple[int, ...]


class NamesOf(msgspec.Struct, frozen=True, array_like=True, tag="names"):
    """Which streams are there?"""


class Names(msgspec.Struct, frozen=True, array_like=True, tag="streams"):
    """These, each with its last positions."""

    streams: dict[str, tuple[int, ...]]


Question: TypeAlias = Ask | Ping | LastOf | NamesOf
Answer: TypeAlias = Given | Pong | Last | Names

encode = msgspec.msgpack.Encoder().encode
_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
decode_question = _questions.decode
decode_answer = _answers.decode
