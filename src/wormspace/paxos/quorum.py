"""Quorum arithmetic, in one place.

Servers of a partition are numbered from 0; a set of them is a bit mask, so that one server
counted twice is still one server.
"""

from __future__ import annotations


def majority(servers: int) -> int:
    """How many of `servers` are a quorum: any two quorums share a server."""
    return servers // 2 + 1


def is_quorum(mask: int, servers: int) -> bool:
    """Whether the servers in `mask` are a quorum of `servers`."""
    return mask.bit_count() >= majority(servers)


def out_of_reach(lost: int, servers: int) -> bool:
    """Whether no quorum can be had without a server of the mask `lost`."""
    return servers - lost.bit_count() < majority(servers)


def everyone(servers: int) -> int:
    """The mask of all servers."""
    return (1 << servers) - 1


def members(mask: int) -> tuple[int, ...]:
    """The servers in `mask`, in ascending order."""
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)
