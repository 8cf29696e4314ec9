"""A deterministic world for the shipped client and server: time, network, disks, faults."""

from wormspace.sim._handles import Deadlock, SimulationError, StepLimit, Stuck, Unhandled
from wormspace.sim._loop import SimLoop
from wormspace.sim.disk import Disk, DiskOptions
from wormspace.sim.faults import FaultPlan, FaultSchedule
from wormspace.sim.linearizability import History, check
from wormspace.sim.network import Network
from wormspace.sim.network_options import Loss, NetworkOptions
from wormspace.sim.trace import Trace
from wormspace.sim.world import DeadlineExceeded, Host, Process, ProcessKilled, World

__all__ = [
    "DeadlineExceeded",
    "Deadlock",
    "Disk",
    "DiskOptions",
    "FaultPlan",
    "FaultSchedule",
    "History",
    "Host",
    "Loss",
    "Network",
    "NetworkOptions",
    "Process",
    "ProcessKilled",
    "SimLoop",
    "SimulationError",
    "StepLimit",
    "Stuck",
    "Trace",
    "Unhandled",
    "World",
    "check",
]
