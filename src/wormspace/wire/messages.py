"""The messages around the protocol: greeting, errors, listening, status.

The greeting is fixed for all versions of the protocol: a client names the versions it speaks, and
the server chooses one or refuses.  Everything after it is `ToServer` and `ToClient`.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

from wormspace.addresses import SegmentBound, SegmentNumber, SpaceName
from wormspace.paxos.messages import Reply, Request

PROTOCOL_VERSIONS = (1,)
MAX_NAME = 255

Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="wormspace"):
    """The client's first frame.

    Attributes:
        versions: the protocol versions it speaks.
        cluster: the cluster it wants; empty for "whichever this is".
        client: its id, for logs.
        credentials: reserved; empty today.
    """

    versions: list[int]
    cluster: Name
    client: Name
    credentials: bytes = b""


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The server's answer: the version chosen, who it is, and its limits in bytes.

    Attributes:
        partition: its place among the cluster's `partitions` replica sets, from 0.
        replicas: how many servers its replica set has.
    """

    version: int
    cluster: Name
    server: Name
    partition: int
    partitions: int
    replicas: int
    max_frame: int
    max_value: int


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The server's other answer; it closes the connection after it."""

    code: str
    text: str


class Listen(msgspec.Struct, frozen=True, array_like=True, tag="listen"):
    """From now on, push every write accepted in segments [segment, stop) of the space.

    Answered by `Done` once the subscription stands; events then carry this request's id.  The same
    id once more replaces the subscription.

    Attributes:
        values: whether the events carry the values, or only tell that there is one.
    """

    space: SpaceName
    segment: SegmentNumber
    stop: SegmentBound
    values: bool = True


class Unlisten(msgspec.Struct, frozen=True, array_like=True, tag="unlisten"):
    """One-way: end the subscription that the request `listener` began."""

    listener: int


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """Pushed: this server accepted these writes, durably.

    Without any `values` for a listener that did not ask for them.
    """

    space: str
    segment: int
    ballot: bytes
    offsets: list[int]
    values: list[bytes]


class TrimNotice(msgspec.Struct, frozen=True, array_like=True, tag="discarded"):
    """Pushed: segments [segment, stop) of the space were trimmed on this server."""

    space: str
    segment: int
    stop: int


class Lagging(msgspec.Struct, frozen=True, array_like=True, tag="lagging"):
    """Pushed: the listener read too slowly; the subscription ended here.  Listen again."""


class Status(msgspec.Struct, frozen=True, array_like=True, tag="status"):
    """Ask for the server's metrics."""


class Metrics(msgspec.Struct, frozen=True, array_like=True, tag="metrics"):
    """A server's metrics, by name; see docs/operations.md."""

    metrics: dict[str, Any]


class Spaces(msgspec.Struct, frozen=True, array_like=True, tag="spaces"):
    """Ask for the names of the spaces that hold something here, after `after`."""

    after: str


class SpaceNames(msgspec.Struct, frozen=True, array_like=True, tag="space-names"):
    """Names in ascending order; empty when there are no more."""

    names: list[str]


class Trims(msgspec.Struct, frozen=True, array_like=True, tag="trims"):
    """Ask which of the segments [segment, stop) of the space have tombstones here."""

    space: SpaceName
    segment: SegmentNumber
    stop: SegmentBound


class Tombstones(msgspec.Struct, frozen=True, array_like=True, tag="tombstones"):
    """Ascending spans of segments with tombstones, those that overlap what was asked for.

    Attributes:
        next: the segment at which the list was cut off; `COMPLETE` if it was not.
    """

    spans: list[tuple[SegmentNumber, SegmentBound]]
    next: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The request was not carried out and changed nothing.

    But for `INTERNAL`: the server could not say how far it came, and may have carried it out.

    `code` is one of `FULL`, `TOO_LARGE`, `TOO_MANY`, `BAD_REQUEST`, `STOPPING`, `DAMAGED`,
    `INTERNAL`.
    """

    code: str
    text: str


FULL, TOO_LARGE, TOO_MANY, BAD_REQUEST, STOPPING, DAMAGED, INTERNAL = (
    "full",
    "too-large",
    "too-many",
    "bad-request",
    "stopping",
    "damaged",
    "internal",
)

ONE_WAY = 0
"""The request id of messages that get no answer."""

ClientMessage: TypeAlias = Request | Listen | Unlisten | Status | Spaces | Trims
ServerMessage: TypeAlias = (
    Reply | Failed | Accepted | TrimNotice | Lagging | Metrics | SpaceNames | Tombstones
)


RequestId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class ToServer(msgspec.Struct, frozen=True, array_like=True):
    """A request: the answer will carry the same id, unique among the client's open requests."""

    id: RequestId
    message: ClientMessage


class ToClient(msgspec.Struct, frozen=True, array_like=True):
    """An answer, or a push of the subscription that request `id` began."""

    id: int
    message: ServerMessage
