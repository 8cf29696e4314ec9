"""What appenders and sequencers say to each other."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from wormspace.errors import UsageError
from wormspace.log.records import Latest, Natural
from wormspace.log.term import ReservedRange
from wormspace.malformed import MALFORMED
from wormspace.rpc import Failure


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """Give me the next `len(counts)` slots, and positions for what I shall put into them.

    Attributes:
        counts: how many entries each of the batches will have.
        size: bytes of all the entries.
        named: (index, streams) for those of the batches that name streams; with each stream, which
            entry of the batch is the last that belongs to it.
        doubt: the fence of the token under which a write was refused, if there was one.
    """

    counts: tuple[Natural, ...]
    size: Natural
    named: tuple[tuple[int, dict[str, int]], ...] = ()
    doubt: bytes | None = None


class Given(msgspec.Struct, frozen=True, array_like=True, tag="given"):
    """The slots, ascending, one for each batch.

    Attributes:
        first: the position of the first entry of the first batch; the others follow.
        before: bytes of all the entries before it.
        links: for each of the `named`, the last slots of each of its streams.
    """

    ranges: tuple[ReservedRange, ...]
    first: Natural
    before: Natural
    links: tuple[dict[str, tuple[int, ...]], ...] = ()


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="ping"):
    """Are you there?"""


class Pong(msgspec.Struct, frozen=True, array_like=True, tag="pong"):
    """Yes."""


class LastOf(msgspec.Struct, frozen=True, array_like=True, tag="last"):
    """Where was this stream appended to last?"""

    stream: str


class Last(msgspec.Struct, frozen=True, array_like=True, tag="slots"):
    """There; what was to go there may have become holes.

    Attributes:
        next: the position that is handed out next; all of the stream's below it is known.
    """

    latest: Latest
    next: Natural


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


def read_question(raw: bytes) -> Question:
    """What an appender asked.

    Raises:
        UsageError: that is no question, or does not agree with itself.
    """
    try:
        question = _questions.decode(raw)
    except MALFORMED as e:
        raise UsageError(f"no question for a sequencer: {e}") from e
    if isinstance(question, Ask):
        counts = question.counts
        for i, names in question.named:
            if not 0 <= i < len(counts) or any(not 0 <= n < counts[i] for n in names.values()):
                raise UsageError("the streams of a request are of no entry that it has")
    return question


def read_answer(raw: bytes) -> Answer:
    """What a sequencer answered.

    Raises:
        Failure: that is no answer.
    """
    try:
        return _answers.decode(raw)
    except MALFORMED as e:
        raise Failure(f"no answer of a sequencer: {e}") from e
