"""What a user holds: an object with the state machine's commands and queries as awaitable calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

import msgspec

from wormspace.errors import UsageError
from wormspace.smr.arguments import as_level
from wormspace.smr.consistency import Consistency, Session
from wormspace.smr.declare import Declaration, StateMachine
from wormspace.smr.methods import MARK, QUERY, Method
from wormspace.smr.records import Member
from wormspace.space import Address

M = TypeVar("M", bound=StateMachine)
P = ParamSpec("P")
R = TypeVar("R")


class Status(msgspec.Struct, frozen=True):
    """How a replica is.

    Attributes:
        applied: the next register to apply.
        leader: who leads, as far as is known here.
        leads: whether it is this one.
        failed: why it stopped, or empty.
        sessions: how many clients it remembers.
    """

    member: Member
    applied: Address
    leader: Member | None
    leads: bool
    failed: str
    sessions: int


class Port(Protocol):
    """Where calls go."""

    def command(
        self, method: Method, arguments: tuple[Any, ...], session: Session
    ) -> Awaitable[Any]:
        """Have a command applied; its result."""

    def query(
        self, method: Method, arguments: tuple[Any, ...], level: Consistency, session: Session
    ) -> Awaitable[Any]:
        """Have a query answered; its result."""


class View(Generic[M]):
    """A replicated object, seen at one consistency level in one session.

    Its methods are those of the state machine, to be awaited:

        await inventory.reserve("sku-1", 3)

    `call` is the same for type checkers: `await inventory.call(Inventory.reserve, "sku-1", 3)`.
    """

    def __init__(
        self, declaration: Declaration, port: Port, level: Consistency, session: Session
    ) -> None:
        self._declaration = declaration
        self._port = port
        self._level = level
        self._session = session

    def __repr__(self) -> str:
        return f"<View of {self._declaration.owner.__name__}, {self._level}>"

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = self._declaration.methods.get(name)
        if method is None:
            raise AttributeError(
                f"{self._declaration.owner.__name__} has no command or query {name!r}"
            )
        bound = self._bind(method)
        self.__dict__[name] = bound  # found directly the next time
        return bound

    def _bind(self, method: Method) -> Callable[..., Awaitable[Any]]:
        if method.kind == QUERY:
            return method.bind(self._port.query, self._level, self._session)
        return method.bind(self._port.command, self._session)

    def call(
        self, method: Callable[Concatenate[M, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[R]:
        """Run a command or query, given as the class's method: for type checkers.

        Raises:
            UsageError: it is no command or query of this object's class.
        """
        name = getattr(method, "__name__", "")
        owner = self._declaration.owner.__name__
        if not hasattr(method, MARK) or name not in self._declaration.methods:
            raise UsageError(f"`call` takes a command or query as {owner}.name, not {method!r}")
        bound: Callable[..., Awaitable[R]] = getattr(self, name)
        return bound(*args, **kwargs)

    def at(self, level: Consistency) -> View[M]:
        """The same object and session, with queries at another level.

        Raises:
            UsageError: it is none.
        """
        return View(self._declaration, self._port, as_level(level), self._session)

    def session(self, token: str = "") -> View[M]:
        """The same object in a session of its own, that goes on from `token` if one is given.

        Raises:
            BadToken: it is no session's token.
        """
        session = Session()
        if token != "":
            session.join(token)
        return View(self._declaration, self._port, self._level, session)

    @property
    def token(self) -> str:
        """What this session has seen, as a word for a session elsewhere."""
        return self._session.token
