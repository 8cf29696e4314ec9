"""A replica set whose servers a test plays, so that each message and each moment can be named."""

from __future__ import annotations

import asyncio

from wormspace.registers.paxos.partition import Partition
from wormspace.wire.messages import ONE_WAY

LOW, BALLOT, HIGH, TOP = (bytes(7) + bytes([n]) + b"proposer" for n in (1, 2, 3, 4))
ARRAY = ("s", 3)


class Link:
    """A link that keeps what is posted, with its moment."""

    def __init__(self, server: int) -> None:
        self.name = f"s{server}"
        self.max_value = 1000
        self.up, self.quiet, self.trouble, self.refused = True, False, "", None
        self.posted: list[tuple[float, int, object]] = []

    def start(self, receiver: object, server: int) -> None:
        pass

    def post(self, outgoing) -> None:
        if self.up:
            self.posted.append((now(), outgoing.id, outgoing.message))

    async def close(self) -> None:
        pass


class Played(Partition):
    """Its servers say what a test lets them say."""

    def __init__(self, size: int = 3) -> None:
        super().__init__(0, [Link(server) for server in range(size)])

    def sent(self) -> list[tuple[int, object]]:
        """The requests since the last look, each with its server; not what gets no answer."""
        found = [
            (server, message)
            for server, link in enumerate(self.links)
            for _, id_, message in link.posted
            if id_ != ONE_WAY
        ]
        for link in self.links:
            link.posted = [post for post in link.posted if post[1] == ONE_WAY]
        return found

    def moments(self, server: int) -> list[float]:
        """When that server was asked, since the last look at what was sent."""
        return [at for at, id_, _ in self.links[server].posted if id_ != ONE_WAY]

    def told(self) -> list[object]:
        """What every server that is up was told that gets no answer."""
        up = [link for link in self.links if link.up]
        every = [[m for _, id_, m in link.posted if id_ == ONE_WAY] for link in up]
        assert all(one == every[0] for one in every)
        return every[0] if every else []

    def answer(self, server: int, message: object) -> None:
        """That server answers what it was asked last."""
        _, id_, _ = next(post for post in reversed(self.links[server].posted) if post[1] != ONE_WAY)
        self.on_message(server, id_, message)

    def cut(self, server: int) -> None:
        """The link goes down."""
        self.links[server].up = False
        self.on_down(server)

    def mend(self, server: int) -> None:
        """The link comes up."""
        self.links[server].up = True
        self.on_up(server)

    @property
    def is_idle(self) -> bool:
        """Whether no operation is under way."""
        return not self._operations


class Answering(Played):
    """Servers that answer at once, by a function each.

    Attributes:
        asked: the requests, each with its server; not what gets no answer.
    """

    def __init__(self, *answers) -> None:
        super().__init__(len(answers))
        self.asked: list[tuple[int, object]] = []
        for server, answer in enumerate(answers):
            link = self.links[server]
            link.post = lambda outgoing, s=server, a=answer, post=link.post: (
                post(outgoing),
                self._ask(s, a, outgoing),
            )

    def _ask(self, server: int, answer, outgoing) -> None:
        if outgoing.id == ONE_WAY or not self.links[server].up:
            return
        self.asked.append((server, outgoing.message))
        found = answer(outgoing.message)
        if found is not None:
            self._loop.call_soon(self.on_message, server, outgoing.id, found)


def silent(message) -> None:
    """Says nothing."""


def now() -> float:
    """The loop's clock."""
    return asyncio.get_running_loop().time()


def error_of(future: asyncio.Future) -> Exception:
    """With what it ended."""
    assert future.done()
    error = future.exception()
    assert error is not None
    return error
