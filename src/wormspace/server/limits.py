"""What a server puts up with, and who it says it is."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from wormspace.wire.frames import MAX_FRAME_BYTES

Size: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=86400)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server puts up with; sizes in bytes, times in seconds."""

    max_frame: Size = MAX_FRAME_BYTES
    max_value: Size = 1 << 20
    max_connections: Size = 4096
    max_listeners: Size = 16384
    max_backlog: Size = 64 << 20
    max_unsent: Size = 4 << 20
    greeting_timeout_s: Seconds = 5.0
    stall_timeout_s: Seconds = 30.0


class ServerIdentity(msgspec.Struct, frozen=True):
    """Who a server is: the cluster's id, its name in it, its replica set and that one's size."""

    cluster: str
    server: str
    partition: int = 0
    partitions: int = 1
    replicas: int = 1
