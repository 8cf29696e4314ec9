"""What a replica does with a register: pure, the same everywhere, and it can prove it.

An engine holds one instance of the state machine, the sessions of its clients and a *chain*: a hash
over the outcomes of all commands so far.  Two replicas that applied the same registers and have
different chains have different states.  A chain sees only what shows in outcomes; an *audit* hashes
the whole state.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import msgspec

from wormspace.knobs import KNOBS
from wormspace.smr.calls import OF_THIS_PROCESS, Malformed, as_fault, encode_outcome
from wormspace.smr.declare import Moment, StateMachine
from wormspace.smr.errors import Diverged
from wormspace.smr.kinds import Normal
from wormspace.smr.methods import QUERY, Method, run_whole
from wormspace.smr.records import (
    Batch,
    Mark,
    Outcome,
    Packet,
    Seal,
    Skip,
    decode_outcome,
    decode_record,
    encode,
)
from wormspace.smr.sessions import Sessions
from wormspace.smr.shapes import Shape
from wormspace.smr.versions import UPGRADE, Lineage, decode_upgrade, upgraded
from wormspace.space import Address

log = logging.getLogger("wormspace.smr")

_LEASES = Normal(dict[str, float], "it returns")
_FAULTLESS = encode({}) + encode("")


class Applied(msgspec.Struct, frozen=True):
    """A packet was applied (or known from before), and this is its encoded outcome."""

    client: bytes
    number: int
    outcome: bytes


class Engine:
    """A state machine, its sessions, and where it stands.

    Attributes:
        machine: the instance, of the class that the object is of at `position`.
        lineage: the classes that this replica knows.
        position: the next register to apply.
        chain: the hash of all outcomes.
        time_ns: the time of the last batch.
        emitted: how many events commands have emitted so far: the same number everywhere.
        recent: the last of them.
        rests: the owners who have passed on all their turns in the segment of `position`.
        identity: of the space that the registers are from; b"" while that is not known.
    """

    def __init__(self, machine: StateMachine, newest: type[StateMachine] | None = None) -> None:
        self.machine = machine
        self.lineage = Lineage(newest or type(machine))
        self.position = Address(0, 0)
        self.chain = bytes(16)
        self.time_ns = 0
        self.sessions = Sessions()
        self.rests: set[int] = set()
        self.identity = b""
        self.emitted = 0
        self.recent: deque[Any] = deque(maxlen=KNOBS.smr_events_kept)
        self.chains: OrderedDict[Address, bytes] = OrderedDict()
        self._complained = ""

    def begin(self, version: int, shape: Shape, what: str) -> None:
        """At the beginning of the log: be of the version that the object began as.

        Raises:
            UpdateNeeded, ShapeChanged.
        """
        machine_type = self.lineage.at(version, shape, what)
        if machine_type is not type(self.machine):
            self.machine = machine_type()

    def apply(self, raw: bytes, size: int, turns: int = 1) -> tuple[list[Applied], Batch | None]:
        """Apply the register at `position`, in a segment of `size`; moves on.

        Where turns rotate, register `offset` is the turn of owner `offset % turns`.

        Raises:
            ProtocolViolation: the register holds something else.
            Diverged: the proposer had another state at a position that was applied here.
        """
        address = self.position
        record = decode_record(raw, address)
        applied: list[Applied] = []
        batch = None
        if isinstance(record, Batch):
            if record.chain is not None:
                self._compare(record.chain)
            applied, batch = self._apply_batch(record, address), record
        elif isinstance(record, Skip):
            self.rests.add(address.offset % turns)
        self._move(size if isinstance(record, Seal) else address.offset + 1, size, turns)
        if batch is not None:
            self.chains[self.position] = self.chain
            if len(self.chains) > KNOBS.smr_chains_kept:
                self.chains.popitem(last=False)
        return applied, batch

    def _move(self, offset: int, size: int, turns: int) -> None:
        """Go on at `offset`, or at the first one after it whose owner has not passed it on."""
        while offset < size and offset % turns in self.rests:
            offset += 1
        segment = self.position.segment
        if offset < size:
            self.position = Address(segment, offset)
        else:
            self.position = Address(segment + 1, 0)
            self.rests.clear()

    def mark(self) -> Mark | None:
        """This replica's claim about itself."""
        if not self.chains:
            return None
        position, digest = next(reversed(self.chains.items()))
        return Mark(position, digest)

    def _compare(self, claim: Mark) -> None:
        mine = self.chains.get(claim.position)
        if mine is not None and mine != claim.digest:
            raise Diverged(
                f"{type(self.machine).__name__}: at position {claim.position} commands had other "
                "outcomes here than where they were proposed: a command is not the same everywhere"
            )

    # ------------------------------------------------------------ packets

    def _apply_batch(self, batch: Batch, address: Address) -> list[Applied]:
        machine = self.machine
        self.time_ns = max(self.time_ns, batch.time_ns)
        due = self.due()
        if due is not None and due * 1e9 <= self.time_ns:
            machine._moment = Moment(self.time_ns, f"{batch.seed}/{address}/due")
            self._let_happen()
        for lease in batch.lapsed:
            if self._runs(lease):
                machine._moment = Moment(self.time_ns, f"{batch.seed}/{address}/{lease}")
                self._let_lapse(lease)
        applied = []
        chain = hashlib.blake2b(self.chain, digest_size=16)
        for index, packet in enumerate(batch.packets):
            outcome, is_new = self._apply_packet(packet, batch.seed, address, index)
            applied.append(Applied(packet.client, packet.number, outcome))
            if is_new:
                chain.update(_compared(outcome))
        self.sessions.expire(self.time_ns)
        self.chain = chain.digest()
        machine = self.machine
        for name in machine.declaration.tables:
            getattr(machine, name).settle()
        if machine._events:
            self.emitted += len(machine._events)
            self.recent.extend(machine._events)
            machine._events.clear()
        return applied

    def _apply_packet(
        self, packet: Packet, seed: int, address: Address, index: int
    ) -> tuple[bytes, bool]:
        sessions = self.sessions
        known = sessions.find(packet)
        if known is not None:
            return known, False
        refusal = sessions.refusal(packet)
        if refusal:
            return encode(Outcome([], {}, refusal)), False
        self.machine._moment = Moment(self.time_ns, f"{seed}/{address}/{index}")
        outcome = self._run(packet.commands)
        sessions.keep(packet, outcome, self.time_ns)
        return outcome, True

    def due(self) -> float | None:
        """When something happens by itself, in seconds since the epoch; None if nothing does."""
        try:
            with self.machine._journal.closed("due"):
                due = self.machine.due()
            return None if due is None or math.isnan(due) else float(due)
        except OF_THIS_PROCESS:
            raise
        except Exception as e:  # noqa: BLE001 - the same on all replicas: nothing is due
            self._complain("due", e)
            return None

    def _let_happen(self) -> None:
        try:
            run_whole(self.machine, type(self.machine).on_due)
        except OF_THIS_PROCESS:
            raise
        except Exception as e:  # noqa: BLE001 - the same on all replicas: nothing has happened
            self._complain("on_due", e)

    def leases(self) -> dict[str, float]:
        """The leases that run, and the length of each in seconds."""
        running: dict[str, float] = self._of_leases(_LEASES.check, {})
        return running

    def _runs(self, lease: str) -> bool:
        """Whether this one runs; a batch names several that have lapsed, so it is quick."""
        runs: bool = self._of_leases(lambda running: lease in running, False)
        return runs

    def _of_leases(self, look: Callable[[Any], Any], otherwise: Any) -> Any:
        try:
            with self.machine._journal.closed("leases"):
                return look(self.machine.leases())
        except OF_THIS_PROCESS:
            raise
        except Exception as e:  # noqa: BLE001 - the same on all replicas: none lapses
            self._complain("leases", e)
            return otherwise

    def _let_lapse(self, lease: str) -> None:
        try:
            run_whole(self.machine, type(self.machine).on_lapse, (lease,))
        except OF_THIS_PROCESS:
            raise
        except Exception as e:  # noqa: BLE001 - the same on all replicas: nothing has happened
            self._complain("on_lapse", e)

    def _complain(self, what: str, error: Exception) -> None:
        """Once for each error: it comes again with each batch."""
        text = f"{type(self.machine).__name__}.{what}: {type(error).__name__}: {error}"
        if text != self._complained:
            self._complained = text
            log.error("%s; nothing has changed, and it is tried again", text)

    def query(self, method: Method, arguments: tuple[Any, ...]) -> Any:
        """Answer a query of the newest class here and now, with the version that there is.

        Raises:
            TypeError: the object is of an older version, which does not know the query.
        """
        declaration = self.machine.declaration
        here = declaration.methods.get(method.name)
        if here is None or here.kind != QUERY:
            raise TypeError(f"{declaration.owner.__name__} has no {method.name!r} yet: upgrade it")
        with self.machine._journal.closed(method.name):
            value = here.call(self.machine, *arguments)
        return value if method.is_plain else method.decode(encode(value))

    def _run(self, commands: bytes) -> bytes:
        """What came of a packet's commands, encoded."""
        if commands.startswith(UPGRADE):
            return self._upgrade(commands)
        try:
            values, faults = self.machine.declaration.commands.run(self.machine, commands)
        except Malformed as e:
            return encode(Outcome([], {}, f"its packet is malformed: {e}"))
        return encode_outcome(values, faults)

    def _upgrade(self, raw: bytes) -> bytes:
        """Become another version; what came of it, encoded: the version that it is of now.

        Raises:
            UpdateNeeded, ShapeChanged: others can, this replica cannot.
        """
        try:
            upgrade = decode_upgrade(raw)
        except Malformed as e:
            return encode(Outcome([], {}, f"its packet is malformed: {e}"))
        machine = self.machine
        current = machine.declaration.version
        if upgrade.version > current:
            self.lineage.at(upgrade.version, upgrade.shape, f"from position {self.position} on it")
            try:
                self.machine = upgraded(machine, self.lineage.between(current, upgrade.version))
            except OF_THIS_PROCESS:
                raise
            except Exception as e:  # noqa: BLE001 - the same on all replicas: it stays what it was
                return encode_outcome([None], {0: as_fault(e)})
            log.info("%s is of version %d now", type(self.machine).__name__, upgrade.version)
        return encode_outcome([self.machine.declaration.version], {})


def _compared(outcome: bytes) -> bytes:
    """What of an outcome must be the same everywhere.

    Of a fault, only where it is and its class: its words are those of this version of Python and
    of what else is installed, which differ while machines are brought up to date one by one.
    """
    if outcome.endswith(_FAULTLESS):
        return outcome
    found = decode_outcome(outcome)
    faults = {index: fault.kind for index, fault in found.faults.items()}
    return encode((found.values, faults, bool(found.refused)))
