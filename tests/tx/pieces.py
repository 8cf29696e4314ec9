"""Registers, managers, branches and a site that are made up, for one piece of tx at a time."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from types import SimpleNamespace

from wormspace.errors import Closed, Trimmed, UsageError
from wormspace.runtime.tasks import Tasks
from wormspace.tx.deciding import Vote
from wormspace.tx.in_flight import InFlight, InFlightTable
from wormspace.tx.keeping import KeptBranches
from wormspace.tx.messages import Plan
from wormspace.tx.names import Gid, TxId
from wormspace.tx.participant import Participant
from wormspace.tx.resolver import Resolver
from wormspace.tx.space import TransactionSpace

HOME = TransactionSpace("tx", "0" * 16, 8)
AT = 1234.5


class VoteStore:
    """Registers of votes, as a dictionary.

    Attributes:
        asked: the reads, as (manager, transaction).
        refused: the managers for which somebody wanted to write no.
        trimmed: managers whose votes are forgotten.
        followed: the managers whose votes somebody wanted to hear.
    """

    space, is_open = "tx", True

    def __init__(self, **votes: Vote) -> None:
        self.votes, self.asked, self.refused, self.casts = votes, [], [], []
        self.made = True
        self.trimmed: set[str] = set()
        self.deadlines: set[float] = set()
        self.followed: list[str] = []

    @property
    def home(self) -> TransactionSpace:
        return HOME

    async def find(self, deadline: float) -> TransactionSpace | None:
        self.deadlines.add(deadline)
        return HOME if self.made else None

    async def open(self, deadline: float) -> TransactionSpace:
        self.deadlines.add(deadline)
        return HOME

    async def read(self, manager: str, txid: TxId, *, deadline: float) -> Vote | None:
        self.asked.append((manager, txid))
        self.deadlines.add(deadline)
        if manager in self.trimmed:
            raise Trimmed("trimmed")
        return self.votes.get(manager)

    async def refuse(self, manager: str, txid: TxId, vote: Vote, *, deadline: float) -> Vote:
        self.deadlines.add(deadline)
        self.refused.append(manager)
        return self.votes.setdefault(manager, vote)

    def follow(self, manager: str, txid: TxId) -> None:
        self.followed.append(manager)

    def cast(self, manager, txid, vote, on_stands, *, ahead, deadline) -> None:
        self.casts.append((manager, txid, vote, ahead, deadline))
        self.on_stands = on_stands


class Manager:
    """A resource manager that notes what it is told.

    Args:
        problem: what its calls raise.
    """

    def __init__(self, name: str = "a", problem: BaseException | None = None) -> None:
        self.name, self.problem = name, problem
        self.told, self.at_once, self.most = [], 0, 0
        self.gids: list[Gid] = []
        self.begun: list[tuple[Gid, float | None]] = []
        self.branch = Branch()

    async def begin(self, gid: Gid, timeout: float | None = None) -> Branch:
        self.begun.append((gid, timeout))
        if self.problem is not None:
            raise self.problem
        return self.branch

    def is_conflict(self, error: BaseException) -> bool:
        return isinstance(error, KeyError)

    async def _do(self, *what: object) -> None:
        self.told.append(what)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.problem is not None:
            raise self.problem

    def commit(self, gid: Gid):
        return self._do("commit", gid)

    def abort(self, gid: Gid):
        return self._do("abort", gid)

    async def identity(self, timeout: float | None = None, *, meant: str = "") -> str:
        return f"database-{self.name}"

    async def prepared(self) -> list[Gid]:
        await self._do("prepared")
        return self.gids


def gid(manager: str = "a", number: int = 1, initiator: str = "j") -> Gid:
    return HOME.gid(manager, TxId(initiator, number))


def vote(manager: str, yes: bool = True, participants=("a", "b")) -> Vote:
    return Vote(yes, participants, str(gid(manager)), 1.0, f"by {manager}", "", False)


def resolver(vote_store: VoteStore, timeout: float = 5.0) -> Resolver:
    return Resolver(vote_store, "me", lambda: AT, timeout)


class Branch:
    """Work that can be prepared, or not."""

    def __init__(self, problem: BaseException | None = None) -> None:
        self.problem, self.rolled_back = problem, 0
        self.session = self

    async def prepare(self) -> None:
        if self.problem is not None:
            raise self.problem

    async def rollback(self) -> None:
        self.rolled_back += 1

    async def operate(self, body: bytes) -> bytes:
        if self.problem is not None:
            raise self.problem
        return body[::-1]


class Finished:
    """Counts, and notes which transactions are decided or open, and the plans of those with one."""

    trims = 0

    def __init__(self) -> None:
        self.decided: list[tuple[TxId, Plan | None]] = []
        self.open: list[Plan] = []

    def add(self, txid: TxId, plan: Plan | None = None) -> None:
        self.decided.append((txid, plan))

    def leave_open(self, plan: Plan) -> None:
        self.open.append(plan)

    async def trim(self) -> None:
        self.trims += 1


class Identities:
    """Every manager is who it is; or none is, for the reason that `problem` says."""

    def __init__(self) -> None:
        self.problem: Exception | None = None
        self.held: set[str] = set()
        self.checked: list[tuple[str, bool]] = []

    def has(self, manager: Manager) -> bool:
        return manager.name in self.held

    async def check(self, manager: Manager, deadline: float, *, decide: bool = False) -> None:
        self.checked.append((manager.name, decide))
        if self.problem is not None:
            raise self.problem


class Site:
    """What the steps need of a site; its clock stands still.

    Attributes:
        said: what it said to other sites, as (address, message, timeout).
        opened: how long each opening of its transaction space might take.
        left: transactions whose segments it left.
    """

    def __init__(self, *managers: Manager, vote_store: VoteStore | None = None) -> None:
        self.host = self.peers = self
        self.vote_store = vote_store or VoteStore()
        self.managers = {manager.name: manager for manager in managers}
        self.in_flights = InFlightTable()
        self.metrics: Counter[str] = Counter()
        self.resolver = resolver(self.vote_store)
        self.finished = Finished()
        self.identities = Identities()
        self.loop, self.tasks = asyncio.get_running_loop(), Tasks("a site")
        self.initiator, self.closed = "me", False
        self.address, self.is_alive = "me:1", True
        self.patience, self.idle = 10.0, 4.0
        self.time = 100.0
        self.on_decision = None
        self.kept = KeptBranches(self.now)
        self.said, self.answer, self.parts = [], b"", []
        self.spawned: list[asyncio.Task] = []
        self.client = SimpleNamespace(registers=SimpleNamespace(max_value=1 << 20))
        self.numbers = itertools.count()
        self.opened: list[float | None] = []
        self.left: list[TxId] = []

    def check_open(self) -> None:
        if self.closed:
            raise Closed("closed")

    def new_id(self) -> TxId:
        return TxId("me", next(self.numbers))

    def attach(self, manager: Manager) -> None:
        self.managers[manager.name] = manager

    def leave_segment(self, txid: TxId) -> None:
        self.left.append(txid)

    def now(self) -> float:
        return self.time

    def clock(self) -> float:
        return AT

    def gid(self, manager: str, txid: TxId) -> Gid:
        return HOME.gid(manager, txid)

    def manager(self, name: str) -> Manager:
        if name not in self.managers:
            raise UsageError(f"no {name}")
        return self.managers[name]

    async def recognise(self, name: str, *, decide: bool = False) -> Manager:
        await self.identities.check(self.manager(name), 0.0, decide=decide)
        return self.manager(name)

    def take_part(self, plan: Plan, branches: dict) -> None:
        self.parts.append((plan, branches))

    async def open(self, timeout: float | None = None) -> TransactionSpace:
        self.opened.append(timeout)
        return HOME

    async def call(self, address: str, message: object, timeout: float) -> bytes:
        self.said.append((address, message, timeout))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def spawn(self, work) -> None:
        self.spawned.append(self.loop.create_task(work))


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def plan(variant: str = "E3", participants=("a", "b")) -> Plan:
    return Plan(TxId("j", 1), participants, ("",) * len(participants), variant, "", 3.0)


def part_of(site: Site, branch: Branch | None, its: Plan) -> tuple[Participant, InFlight]:
    in_flight = site.host.in_flights.join(its.id, its.participants)
    part = Participant(site, in_flight, its, "a", branch)
    in_flight.add(part)
    return part, in_flight
