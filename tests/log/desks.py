"""What a position source needs to find its sequencer, made up: a network, a cell, and
sequencers.
"""

import asyncio

from wormspace.errors import Unavailable
from wormspace.log import sequencer_client as desks
from wormspace.log.errors import Deposed
from wormspace.log.messages import Given, Ping, Pong, encode
from wormspace.log.sequencer_client import SequencerClient
from wormspace.rpc import Failure, NoAnswer, NoService


class Net:
    """Services by address, and what was called.

    Attributes:
        deaf: ports whose calls are not answered.
        slow_s: by port, how long an answer takes, but for pings.
        calls: (port, whether it was a ping, time-out) of each.
    """

    def __init__(self, monkeypatch):
        self.services, self.deaf, self.slow_s, self.calls = {}, set(), {}, []
        self.refusal, self.next_port, self.callers = None, 1000, []
        net = self

        class Service:
            def __init__(self, handlers):
                self.handlers, self.port = handlers, None

            async def start(self, host, port):
                if net.refusal:
                    raise net.refusal
                net.next_port += 1
                self.port = port or net.next_port
                net.services[host, self.port] = self
                return self.port

            async def stop(self):
                net.services.pop(next(at for at, one in net.services.items() if one is self))

        class Caller:
            def __init__(self, host, port):
                self.at, self.closed = (host, port), False
                net.callers.append(self)

            async def call(self, service, body, timeout):
                is_ping = body == encode(Ping())
                net.calls.append((self.at[1], is_ping, timeout))
                if self.closed or self.at not in net.services:
                    raise NoAnswer("the connection was refused")
                wait_s = 0.0 if is_ping else net.slow_s.get(self.at[1], 0.0)
                if self.at[1] in net.deaf or wait_s > timeout:
                    await asyncio.sleep(timeout)
                    raise NoAnswer("no answer in time")
                await asyncio.sleep(wait_s)
                try:
                    handler = net.services[self.at].handlers[service]
                except KeyError:
                    raise NoService("no such service") from None
                try:
                    return await handler(body)
                except (Deposed, Unavailable) as e:
                    raise Failure(str(e)) from e

            async def close(self):
                self.closed = True

        monkeypatch.setattr(desks, "Service", Service)
        monkeypatch.setattr(desks, "Caller", Caller)


class Board:
    """The mark: an announcement and its number.

    Attributes:
        errors: what the next looks and replacements fail with.
    """

    def __init__(self):
        self.number, self.value, self.errors, self.slow_s = -1, None, [], 0
        self.closed = self.nonces = self.looks = 0

    def deadline(self):
        return asyncio.get_running_loop().time() + 10

    def nonce(self):
        self.nonces += 1
        return b"%d" % self.nonces

    def fail(self):
        if self.errors:
            raise self.errors.pop()

    async def get(self):
        self.looks += 1
        await asyncio.sleep(0)
        self.fail()
        return None if self.value is None else (self.number, self.value)

    async def replace(self, expected, value):
        await asyncio.sleep(self.slow_s)
        self.fail()
        if expected != self.number:
            return None
        self.number, self.value = self.number + 3, value
        return self.number

    async def close(self):
        self.closed += 1


class Sequencer:
    """Hands out its own number.

    Attributes:
        error: what each answer fails with.
    """

    made = 0

    def __init__(self, may_renew):
        Sequencer.made += 1
        self.me, self.may_renew = Sequencer.made, may_renew
        self.error, self.hangs, self.started, self.closed = None, False, 0, False

    def give_now(self, ask):
        return Given((), self.me, 0)

    async def answer(self, question):
        if isinstance(question, Ping):
            return Pong()
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error
        return Given((), self.me, 0)

    async def start(self):
        self.started += 1
        if self.error:
            raise self.error

    async def close(self):
        self.closed = True


class House:
    """Desks of one log, each in a process of its own, and the sequencers that they made."""

    def __init__(self, monkeypatch):
        self.net, self.board, self.made = Net(monkeypatch), Board(), []
        Sequencer.made = 0

    def sequencing(self, **options):
        def make(may_renew):
            self.made.append(Sequencer(may_renew))
            return self.made[-1]

        return SequencerClient("orders", self.board, make, **options)

    @property
    def port(self):
        return self.board.value.port
