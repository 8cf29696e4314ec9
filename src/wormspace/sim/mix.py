"""What simulated clients call, how often, and what they hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Mix:
    """How often each call is drawn, relative to the others, and how large the world is.

    segments: live segments per space that the clients try to keep; size: registers in each.
    given_up: the share of calls that are cancelled within moments, as by a caller's time-out.
    """

    calls: dict[str, int] = field(
        default_factory=lambda: {
            "write": 20,
            "write_range": 10,
            "push": 12,
            "stale": 6,
            "hand_over": 6,
            "take_over": 8,
            "unsafe": 8,
            "reuse": 2,
            "read": 24,
            "read_range": 8,
            "settle": 5,
            "alloc": 2,
            "tail": 2,
            "check": 3,
            "holds": 3,
            "inspect": 2,
            "spaces": 1,
            "servers": 1,
            "listen": 1,
            "trim": 1,
            "trim_prefix": 1,
        }
    )
    spaces: tuple[str, ...] = ("north", "south")
    segments: int = 2
    size: int = 12
    pause_s: float = 0.02
    given_up: float = 0.0


@dataclass
class Gift:
    """A token on its way to another client, as text, and the registers that are the receiver's."""

    space: str
    segment: int
    token: str
    offsets: list[int]
