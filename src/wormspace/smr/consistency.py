"""What a query may see, and what it costs.

`Linearizable`
    Sees every command that was acknowledged, to anybody, before it began.  The leader answers, once
    a majority confirms that it still leads; nothing is written.
`Sequential`
    Sees a state that everybody goes through, in one order: this session's own commands, and nothing
    older than what it saw before.  This replica answers, once it has that.
`Causal`
    The same where a session goes on at another replica: its `token` travels with it, and whoever
    joins it depends on what it saw.
`Eventual`
    Sees whatever this replica has, at once.

Commands go through the log at every level, so their effects have one order everywhere.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from wormspace.errors import BadToken
from wormspace.space import Address


class Linearizable(msgspec.Struct, frozen=True, tag="linearizable"):
    """As if there were one copy and one caller at a time."""


class Sequential(msgspec.Struct, frozen=True, tag="sequential"):
    """Own commands are seen, and time does not run backwards, in this session on this replica."""


class Causal(msgspec.Struct, frozen=True, tag="causal"):
    """What a session has seen or done, here or elsewhere (by its token), is seen."""


class Eventual(msgspec.Struct, frozen=True, tag="eventual"):
    """Something that was true once."""


Consistency: TypeAlias = Linearizable | Sequential | Causal | Eventual


class Session:
    """What somebody has seen: reads at the weaker levels never show less.

    Attributes:
        seen: every register before this address.
    """

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = Address(0, 0)

    def __repr__(self) -> str:
        return f"<Session that has seen {self.seen}>"

    def saw(self, position: Address) -> None:
        """An answer had seen everything before `position`."""
        if position > self.seen:
            self.seen = position

    @property
    def token(self) -> str:
        """What was seen, as a word for another process: whoever `joins` it sees no less."""
        return str(self.seen)

    def join(self, token: str) -> None:
        """Depend on what another session has seen, too.

        Raises:
            BadToken: it is no session's token.
        """
        try:
            self.saw(Address.parse(token))
        except ValueError as e:
            raise BadToken(f"{token!r} is no session's token") from e
