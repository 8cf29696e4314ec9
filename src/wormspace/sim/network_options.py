"""How the simulated network behaves."""

from __future__ import annotations

from dataclasses import dataclass, field

from wormspace.sim.latency import Latency, constant, uniform


@dataclass(frozen=True)
class Loss:
    """The chance of each mishap, per frame; needs `NetworkOptions.framed`.

    spared_frames: how many frames at the head of each direction (the hello) are exempt.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    delay_max_s: float = 0.05
    spared_frames: int = 1


@dataclass(frozen=True)
class NetworkOptions:
    """How the network behaves; times in seconds, drawn uniformly where a pair is given.

    split: the chance that bytes arriving at one instant are handed over in two pieces.
    """

    latency: Latency = field(default=uniform(0.0002, 0.001))
    own_latency: Latency = field(default=constant(0.00002))
    framed: bool = False
    loss: Loss | None = None
    split: float = 0.0
    window_bytes: int = 256 * 1024
    connect_timeout_s: tuple[float, float] = (3.0, 10.0)
    stall_timeout_s: tuple[float, float] = (5.0, 15.0)
    retransmit_s: tuple[float, float] = (0.0, 0.2)

    @classmethod
    def unit_delay(cls) -> NetworkOptions:
        """Every message takes exactly one unit of time: virtual time counts message delays."""
        return cls(latency=constant(1.0), own_latency=constant(1.0))
