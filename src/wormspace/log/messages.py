"""What appenders and sequencers say to each other."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from wormspace.log.records import Latest
from wormspace.log.tenure import Run


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """Give me the next `len(counts)` slots, and positions for what I shall put into them.

    Attributes:
        counts: how many entries each of the packs will have.
        size: bytes of all the entries.
        named: (index, streams) for those of the packs that name streams; with each stream, which
            entry of the pack is the last that belongs to it.
        doubt: a ballot under which a write was refused, if there was one.
    """

    counts: tuple[int, ...]
    size: int
    named: tuple[tuple[int, dict[str, int]], ...] = ()
    doubt: bytes | None = None


class Given(msgspec.Struct, frozen=True, array_like=True, tag="given"):
    """The slots, ascending, one for each pack.

    Attributes:
        first: the position of the first entry of the first pack; the others follow.
        before: bytes of all the entries before it.
        links: for each of the `named`, the last slots of each of its streams.
    """

    runs: tuple[Run, ...]
    first: int
    before: int
    links: tuple[dict[str, tuple[int, ...]], ...] = ()


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="ping"):
    """Are you there?"""


class Pong(msgspec.Struct, frozen=True, array_like=True, tag="pong"):
    """Yes."""


class LastOf(msgspec.Struct, frozen=True, array_like=True, tag="last"):
    """Where was this stream appended to last?"""

    stream: str


class Last(msgspec.Struct, frozen=True, array_like=True, tag="slots"):
    """There; what was to go there may have become holes."""

    latest: Latest


class NamesOf(msgspec.Struct, frozen=True, array_like=True, tag="names"):
    """Which streams are there?"""


class Names(msgspec.Struct, frozen=True, array_like=True, tag="streams"):
    """These, each with where it was appended to last."""

    streams: dict[str, Latest]


Question: TypeAlias = Ask | Ping | LastOf | NamesOf
Answer: TypeAlias = Given | Pong | Last | Names

encode = msgspec.msgpack.Encoder().encode
_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
decode_question = _questions.decode
decode_answer = _answers.decode
