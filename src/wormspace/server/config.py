"""The cluster file: a TOML file that names the cluster, its servers and its partitions.

    cluster = "k3v9..."            # the cluster's id, made once
    durability = "sync"            # sync | os | memory

    [limits]                       # optional, see `Limits`
    max_value = 1048576

    [[server]]
    name = "s1"
    host = "127.0.0.1"
    port = 7001
    bind = "0.0.0.0"               # optional: where it listens, if not at `host`
    data = "s1"                    # relative to the file
    partition = 1                  # counted from 1

Every partition is a replica set of 1, 3, 5 or 7 servers.  All servers and clients must be given
the same servers for a partition: quorums are majorities of exactly these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from wormspace.errors import UsageError
from wormspace.malformed import MALFORMED
from wormspace.runtime.endpoints import PORT_MAX, Endpoint
from wormspace.server.identity import Identity
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.wire.frames import MAX_FRAME_BYTES

DURABILITIES = ("sync", "os", "memory")
REPLICA_SET_SIZES = (1, 3, 5, 7)

ROOM_BYTES = 2 << 20
"""What a client or server puts into one message before a last value, twice over."""


class ConfigError(UsageError):
    """The cluster file is missing, malformed, or makes no sense."""


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server.

    Attributes:
        host, port: where others find it.
        bind: the address it listens on; that of `host` if empty.
        data: its data directory, relative to the cluster file.
        partition: the replica set it belongs to, from 1.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=PORT_MAX)]
    data: str
    partition: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)] = 1
    bind: str = ""

    @property
    def endpoint(self) -> Endpoint:
        """Where others find it."""
        return Endpoint(self.host.strip("[]"), self.port)


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cluster file."""

    cluster: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    server: list[ServerConfig]
    durability: str = "sync"
    limits: Limits = Limits()
    max_store_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 1 << 40

    @property
    def partitions(self) -> list[list[ServerConfig]]:
        """The replica sets, in order."""
        count = max(s.partition for s in self.server)
        return [[s for s in self.server if s.partition == i + 1] for i in range(count)]

    @property
    def url(self) -> str:
        """What a client connects to."""
        sets = [",".join(str(s.endpoint) for s in p) for p in self.partitions]
        return f"worm://{'/'.join(sets)}?cluster={self.cluster}"

    def find(self, name: str) -> ServerConfig:
        """The server of that name.

        Raises:
            ConfigError: there is none.
        """
        for server in self.server:
            if server.name == name:
                return server
        names = ", ".join(s.name for s in self.server)
        raise ConfigError(f"the cluster has no server {name!r}; it has {names}")

    def terms(self, server: ServerConfig) -> Identity:
        """What the server's data directory has to say."""
        partitions = self.partitions
        return Identity(
            cluster=self.cluster,
            server=server.name,
            partition=server.partition - 1,
            partitions=len(partitions),
            members=tuple(sorted(s.name for s in partitions[server.partition - 1])),
            durability=self.durability,
        )

    def identity(self, server: ServerConfig) -> ServerIdentity:
        """What the server tells its clients of itself."""
        partitions = self.partitions
        return ServerIdentity(
            self.cluster,
            server.name,
            server.partition - 1,
            len(partitions),
            len(partitions[server.partition - 1]),
        )


def load(path: Path) -> ClusterConfig:
    """Read and check a cluster file.

    Raises:
        ConfigError: with what is wrong, and where.
    """
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=ClusterConfig)
    except FileNotFoundError as e:
        raise ConfigError(f"{path}: no such file; `wormspace cluster init` makes one") from e
    except (OSError, *MALFORMED) as e:
        raise ConfigError(f"{path}: {e}") from e
    problem = _problem(config)
    if problem:
        raise ConfigError(f"{path}: {problem}")
    return config


def _problem(config: ClusterConfig) -> str:
    if config.durability not in DURABILITIES:
        return f"durability is one of {', '.join(DURABILITIES)}, not {config.durability!r}"
    if not config.server:
        return "it names no server"
    limits = config.limits
    if not limits.max_value + ROOM_BYTES <= limits.max_frame <= MAX_FRAME_BYTES:
        return (
            f"max_frame is at most {MAX_FRAME_BYTES}, which is what clients take, and at least "
            f"{ROOM_BYTES} above max_value: a message may hold that much besides one value"
        )
    for what, values in (
        ("name", [s.name for s in config.server]),
        ("address", [str(s.endpoint) for s in config.server]),
        ("data directory", [s.data for s in config.server]),
    ):
        twice = {v for v in values if values.count(v) > 1}
        if twice:
            return f"two servers have the same {what}: {', '.join(sorted(twice))}"
    for i, members in enumerate(config.partitions):
        if len(members) not in REPLICA_SET_SIZES:
            return f"partition {i + 1} has {len(members)} servers; it takes 1, 3, 5 or 7"
    return ""


def dump(config: ClusterConfig) -> str:
    """A cluster file's text."""
    lines = [
        f"cluster = {_quoted(config.cluster)}",
        f"durability = {_quoted(config.durability)}",
        f"max_store_bytes = {config.max_store_bytes}",
    ]
    for s in config.server:
        lines += [
            "",
            "[[server]]",
            f"name = {_quoted(s.name)}",
            f"host = {_quoted(s.host)}",
            f"port = {s.port}",
            f"data = {_quoted(s.data)}",
            f"partition = {s.partition}",
        ]
        if s.bind:
            lines.append(f"bind = {_quoted(s.bind)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()  # a JSON string is a TOML basic string
