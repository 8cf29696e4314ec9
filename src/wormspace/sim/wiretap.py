"""What clients and servers say to each other, as seen from the wire: frames, decoded, in order.

Each message is told twice, when it leaves and when it arrives.  What is between two processes that
are real can be told by a proxy in the same way.
"""

from __future__ import annotations

from typing import Protocol

from wormspace.sim._transport import SimTransport
from wormspace.sim.network import Network
from wormspace.wire import codec
from wormspace.wire.frames import FrameDecoder
from wormspace.wire.messages import ClientMessage, Hello, ServerMessage, Welcome


class Connection:
    """One connection of a client to a server.

    Attributes:
        client: who connected, by host.
        server: the server's name, once it has said it.
        replicas: how many servers its replica set has.
    """

    __slots__ = ("client", "replicas", "server")

    def __init__(self, client: str) -> None:
        self.client = client
        self.server = ""
        self.replicas = 0


class Listener(Protocol):
    """Whom a wiretap tells what it heard."""

    def on_request_sent(self, c: Connection, request_id: int, m: ClientMessage) -> None:
        """A client sends a request."""

    def on_request(self, c: Connection, request_id: int, m: ClientMessage) -> None:
        """A server receives a request."""

    def on_answer(self, c: Connection, request_id: int, m: ServerMessage, raw: bytes) -> None:
        """A server sends an answer, or an event; `raw` is its frame."""

    def on_answer_received(
        self, c: Connection, request_id: int, m: ServerMessage, raw: bytes
    ) -> None:
        """A client receives an answer."""


class _Way:
    """One direction of a connection, as one of its ends sees it."""

    __slots__ = ("decoder", "greeted", "is_ours")

    def __init__(self) -> None:
        self.decoder = FrameDecoder(1 << 30)
        self.greeted = False
        self.is_ours = True


class Wiretap:
    """Tells a listener what it is fed; connections that speak something else are passed over."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._connections: dict[object, Connection] = {}
        self._ways: dict[tuple[object, bool, bool], _Way] = {}

    def feed(self, key: object, client: str, data: bytes, *, upward: bool, leaving: bool) -> None:
        """Some bytes leave one end of a connection, or arrive at the other.

        Args:
            key: the connection's.
            client: who opened it.
            upward: whether they go from the client to the server.
        """
        way = self._ways.get((key, upward, leaving))
        if way is None:
            way = self._ways[key, upward, leaving] = _Way()
        if not way.is_ours:
            return
        connection = self._connections.get(key)
        if connection is None:
            connection = self._connections[key] = Connection(client)
        try:
            for body in way.decoder.feed(data):
                if not way.greeted:
                    way.greeted = True
                    self._on_greeting(connection, body, upward)
                elif upward:
                    self._on_upward(connection, body, leaving)
                else:
                    self._on_downward(connection, body, leaving)
        except codec.BadMessage:
            way.is_ours = False  # another protocol, or nothing that anybody understands

    def attach(self, network: Network, port: int) -> None:
        """Hear all that is said with servers at this port of any host."""

        def tap(end: SimTransport, data: bytes, leaving: bool) -> None:
            if end.remote[1] == port:  # the client's end
                self.feed(end.local, end.local[0], data, upward=leaving, leaving=leaving)
            elif end.local[1] == port:
                self.feed(end.remote, end.remote[0], data, upward=not leaving, leaving=leaving)

        network.tap = tap

    def _on_greeting(self, c: Connection, body: bytes, upward: bool) -> None:
        greeting: Hello | object = (codec.decode_hello if upward else codec.decode_greeting)(body)
        if isinstance(greeting, Welcome):
            c.server, c.replicas = greeting.server, greeting.replicas

    def _on_upward(self, c: Connection, body: bytes, leaving: bool) -> None:
        request = codec.decode_request(body)
        if leaving:
            self._listener.on_request_sent(c, request.id, request.message)
        else:
            self._listener.on_request(c, request.id, request.message)

    def _on_downward(self, c: Connection, body: bytes, leaving: bool) -> None:
        answer = codec.decode_reply(body)
        if leaving:
            self._listener.on_answer(c, answer.id, answer.message, body)
        else:
            self._listener.on_answer_received(c, answer.id, answer.message, body)
