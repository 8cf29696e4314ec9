"""The acceptors of a small world, each by itself: what one can come to, and what it can reply.

An acceptor with all that belongs to it is a *column*.  What it does depends on nothing but itself
and the requests in the network, so that everything it can come to is found once per column and
network (`Reach`).  Values are interned: columns, networks, operations, replies and votes are small
integers, sets of votes are bit masks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

_T = TypeVar("_T", bound=Hashable)

NOBODY = -1
"""As the operation of a request: nobody listens for replies to it (any more)."""

CRASH = -1
"""As a step of an acceptor: it crashes and restarts."""


class Acceptors(Protocol):
    """What a small world says of its acceptors."""

    def acceptor(self) -> Hashable:
        """An acceptor's state at the start."""

    def handle(self, acceptor: Any, message: Any) -> tuple[Hashable, Any | None]:
        """An acceptor takes in a message: its state after it, and its reply."""

    def restart(self, acceptor: Any) -> Hashable:
        """What is left of an acceptor's state after a crash."""

    def rest(self, acceptor: Any) -> Hashable:
        """The state without what a crash may take from it, and messages sent before give it again.

        Must be a state that the acceptor may come to at any time by itself.
        """

    def heard(self, message: Any, reply: Any) -> Any | None:
        """As much of a reply as an actor can tell apart; None if it can do nothing with it."""

    def votes(self, message: Any, reply: Any) -> Iterable[Hashable]:
        """What the acceptor accepted with this reply."""

    def decides(self, vote: Any) -> Hashable:
        """What is so when a majority of acceptors cast this vote."""

    def show(self, acceptor: Any) -> str:
        """An acceptor's state, for people."""


class Interned(Generic[_T]):
    """Values as small integers, in the order of their first appearance."""

    def __init__(self) -> None:
        self.values: list[_T] = []
        self._numbers: dict[_T, int] = {}

    def __call__(self, value: _T) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.values)
            self.values.append(value)
        return number


class Request(NamedTuple):
    """A message in the network, and the operation that listens for replies to it."""

    operation: int
    message: int


class Offer(NamedTuple):
    """A reply that an operation may take in.

    cost: the deliveries that are still to be counted for it: 1 if it is the answer to one that
    changed nothing, and may thus have happened at any moment when the acceptor would have
    answered so.
    """

    operation: int
    reply: int
    cost: int


class Column(NamedTuple):
    """An acceptor's state; the votes it cast, as a mask; the replies it offers."""

    acceptor: int
    votes: int
    offers: frozenset[Offer]


class Batch(NamedTuple):
    """Steps of one acceptor, as many as an actor's step waits for.

    column: what it is afterwards, at rest.  cost: the number of steps.  last: where its own steps
    ended.  offer: the reply that is taken in, if it needs one more delivery.
    """

    column: int
    cost: int
    last: int
    offer: Offer | None = None


class Reach(NamedTuple):
    """All that an acceptor can come to by itself.

    Attributes:
        found: per column the least number of steps to it, the column before, and the message.
        offers: per operation and reply, the batches that end when the reply becomes available.
        voting: the batches that end with a vote.
        votes: the sets of votes it can come to, each with the quickest way there.
        most: the largest of them.
    """

    found: dict[int, tuple[int, int, int]]
    offers: dict[int, dict[int, dict[int, tuple[int, Offer]]]]
    voting: list[Batch]
    votes: dict[int, Batch]
    most: tuple[int, ...]


class Columns:
    """The columns of a world, what can become of them, and the networks they meet."""

    def __init__(self, world: Acceptors) -> None:
        self.world = world
        self.stores: Interned[Hashable] = Interned()
        self.columns: Interned[Column] = Interned()
        self.networks: Interned[frozenset[Request]] = Interned()
        self.operations: Interned[Hashable] = Interned()
        self.messages: Interned[Hashable] = Interned()
        self.replies: Interned[Hashable] = Interned()
        self.votes: Interned[Hashable] = Interned()
        self._cast: list[int] = []
        self._answers: dict[tuple[int, int], tuple[int, Any]] = {}
        self._delivered: dict[tuple[int, Request], int] = {}
        self._reach: dict[tuple[int, int], Reach] = {}
        self._batches: dict[tuple[int, int, int, bool], dict[int, list[Batch]]] = {}
        self._without: dict[tuple[int, int], int] = {}
        self._rested: dict[int, int] = {}
        self._offering: dict[tuple[int, int], int] = {}
        self._live: dict[int, int] = {}
        self._spending: dict[tuple[int, int], int] = {}
        self._unspent: dict[tuple[int, int], int] = {}
        self._accepts: dict[tuple[int, int], bool] = {}

    def initial(self) -> int:
        """An acceptor at the start."""
        return self.columns(Column(self.stores(self.world.acceptor()), 0, frozenset()))

    # ------------------------------------------------------------ single steps

    def answer(self, acceptor: int, message: int) -> tuple[int, Any | None]:
        """The acceptor after a message, and its reply."""
        key = (acceptor, message)
        found = self._answers.get(key)
        if found is None:
            before = self.stores.values[acceptor]
            after, reply = self.world.handle(before, self.messages.values[message])
            found = self._answers[key] = (self.stores(after), reply)
        return found

    def deliver(self, column: int, request: Request) -> int:
        """The column after a request; the very same if it changes nothing."""
        key = (column, request)
        found = self._delivered.get(key)
        if found is None:
            acceptor, votes, offers = self.columns.values[column]
            after, reply = self.answer(acceptor, request.message)
            found = column
            if after != acceptor:
                if reply is not None:
                    votes |= self._votes(request.message, reply)
                    offers = self._taken(offers, request, reply, 0)
                found = self.columns(Column(after, votes, offers))
            self._delivered[key] = found
        return found

    def restart(self, column: int) -> int:
        """The column after a crash."""
        before = self.columns.values[column]
        return self.columns(before._replace(acceptor=self.restarted(before.acceptor)))

    def restarted(self, acceptor: int) -> int:
        """What a crash leaves of an acceptor."""
        return self.stores(self.world.restart(self.stores.values[acceptor]))

    def rest(self, column: int) -> int:
        """The column at rest; see `Acceptors`."""
        found = self._rested.get(column)
        if found is None:
            before = self.columns.values[column]
            acceptor = self.stores(self.world.rest(self.stores.values[before.acceptor]))
            found = self._rested[column] = self.columns(before._replace(acceptor=acceptor))
        return found

    def offering(self, column: int, network: int) -> int:
        """The column with all the replies to live requests that would change nothing."""
        live = self._live.get(network)
        if live is None:
            requests = frozenset(r for r in self.networks.values[network] if r.operation != NOBODY)
            live = self._live[network] = self.networks(requests)
        key = (column, live)
        found = self._offering.get(key)
        if found is None:
            acceptor, votes, offers = self.columns.values[column]
            for request in self.networks.values[live]:
                after, reply = self.answer(acceptor, request.message)
                if after == acceptor and reply is not None:
                    offers = self._taken(offers, request, reply, 1)
            found = self._offering[key] = self.columns(Column(acceptor, votes, offers))
        return found

    def without(self, column: int, operation: int) -> int:
        """The column without replies to an operation that is over."""
        key = (column, operation)
        found = self._without.get(key)
        if found is None:
            before = self.columns.values[column]
            offers = frozenset(o for o in before.offers if o.operation != operation)
            found = self._without[key] = self.columns(before._replace(offers=offers))
        return found

    def _taken(
        self, offers: frozenset[Offer], request: Request, reply: Any, cost: int
    ) -> frozenset[Offer]:
        if request.operation == NOBODY:
            return offers
        heard = self.world.heard(self.messages.values[request.message], reply)
        if heard is None:
            return offers
        offer = Offer(request.operation, self.replies(heard), cost)
        if offer._replace(cost=0) in offers:
            return offers
        return offers - {offer._replace(cost=1)} | {offer}

    def _votes(self, message: int, reply: Any) -> int:
        mask = 0
        for vote in self.world.votes(self.messages.values[message], reply):
            number = self.votes(vote)
            if number == len(self._cast):
                self._cast.append(message)
            mask |= 1 << number
        return mask

    # ------------------------------------------------------------ all it can come to

    def reach(self, column: int, network: int) -> Reach:
        """What a column can come to by itself with these requests."""
        key = (column, network)
        found = self._reach.get(key)
        if found is None:
            found = self._reach[key] = self._find(column, network)
        return found

    def _find(self, column: int, network: int) -> Reach:
        values = self.columns.values
        requests = sorted(self.networks.values[network])
        found = {column: (0, column, CRASH)}
        offers: dict[int, dict[int, dict[int, tuple[int, Offer]]]] = {}
        voting: dict[int, Batch] = {}
        votes = {values[column].votes: Batch(self.rest(column), 0, column)}
        _note(offers, values[column].offers, column, 0)
        order = [column]
        for before in order:
            steps = found[before][0] + 1
            had = values[before]
            options = {self.deliver(before, r): r.message for r in reversed(requests)}
            options.setdefault(self.restart(before), CRASH)
            options.pop(before, None)
            for changed, message in options.items():
                after = self.offering(changed, network)
                if after not in found:
                    found[after] = (steps, before, message)
                    order.append(after)
                has = values[after]
                _note(offers, has.offers - had.offers, after, steps)
                if has.votes != had.votes:
                    batch = Batch(self.rest(after), steps, after)
                    voting.setdefault(batch.column, batch)
                    votes.setdefault(has.votes, batch)
        most = tuple(mask for mask in votes if not any(mask & m == mask != m for m in votes))
        return Reach(found, offers, list(voting.values()), votes, most)

    def batches(
        self, column: int, network: int, operation: int, over: bool
    ) -> dict[int, list[Batch]]:
        """Per reply, the batches that end with it; `over`: taking it in ends the operation."""
        key = (column, network, operation, over)
        found = self._batches.get(key)
        if found is None:
            found = self._batches[key] = {}
            for reply, ends in self.reach(column, network).offers.get(operation, {}).items():
                best: dict[int, Batch] = {}
                for last, (steps, offer) in ends.items():
                    after = self.without(last, operation) if over else self._paid(last, offer)
                    after = self.rest(after)
                    cost = steps + offer.cost
                    if after not in best or cost < best[after].cost:
                        best[after] = Batch(after, cost, last, offer if offer.cost else None)
                found[reply] = list(best.values())
        return found

    def _paid(self, column: int, offer: Offer) -> int:
        before = self.columns.values[column]
        offers = before.offers - {offer} | {offer._replace(cost=0)}
        return self.columns(before._replace(offers=offers))

    # ------------------------------------------------------------ what can matter no more

    def unspent(self, a: int, b: int, c: int, network: int) -> int:
        """The network without what nobody listens to, and will never change an acceptor (again)."""
        spent = self._spent(a, network) & self._spent(b, network) & self._spent(c, network)
        if not spent:
            return network
        key = (network, spent)
        found = self._unspent.get(key)
        if found is None:
            requests = sorted(self.networks.values[network])
            left = (r for i, r in enumerate(requests) if not spent >> i & 1)
            found = self._unspent[key] = self.networks(frozenset(left))
        return found

    def _spent(self, column: int, network: int) -> int:
        key = (self.columns.values[column].acceptor, network)
        found = self._spending.get(key)
        if found is None:
            found = 0
            for i, request in enumerate(sorted(self.networks.values[network])):
                if request.operation == NOBODY and self.is_spent(key[0], request.message):
                    found |= 1 << i
            self._spending[key] = found
        return found

    def is_spent(self, acceptor: int, message: int) -> bool:
        """Whether a message changes neither the acceptor nor what a crash leaves of it."""
        return all(
            self.answer(state, message)[0] == state
            for state in (acceptor, self.restarted(acceptor))
        )

    def accepts(self, acceptor: int, vote: int) -> bool:
        """Whether the acceptor, or what a crash leaves of it, would cast the vote."""
        key = (acceptor, vote)
        found = self._accepts.get(key)
        if found is None:
            found = self._accepts[key] = self._would_accept(acceptor, vote)
        return found

    def _would_accept(self, acceptor: int, vote: int) -> bool:
        message = self._cast[vote]
        for state in (acceptor, self.restarted(acceptor)):
            reply = self.answer(state, message)[1]
            if reply is not None and self._votes(message, reply) >> vote & 1:
                return True
        return False


def _note(
    offers: dict[int, dict[int, dict[int, tuple[int, Offer]]]],
    new: Iterable[Offer],
    column: int,
    steps: int,
) -> None:
    """These offers are new in `column`, after so many steps."""
    for offer in sorted(new):
        ends = offers.setdefault(offer.operation, {}).setdefault(offer.reply, {})
        if column not in ends or steps + offer.cost < sum((ends[column][0], ends[column][1].cost)):
            ends[column] = (steps, offer)
