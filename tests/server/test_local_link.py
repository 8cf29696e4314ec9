"""A link to a node in this process: what it says of itself, and when answers come."""

from __future__ import annotations

import asyncio

from nodes import B1

from wormspace.paxos.messages import Done, Read, Report, Write, Written
from wormspace.server.local import LocalLink
from wormspace.server.node import Node
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.link import Outgoing
from wormspace.wire.messages import Accepted, Listen


class Heard:
    """Notes what a link tells its owner."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, int, object]] = []

    def on_message(self, server, request_id, message) -> None:
        self.messages.append((server, request_id, message))


async def turns(n=10):
    for _ in range(n):
        await asyncio.sleep(0)


async def test_an_answer_comes_in_a_later_turn_with_the_number_of_its_server() -> None:
    link, heard = LocalLink(Node(MemoryEngine(), max_value=77), "here"), Heard()
    link.post(Outgoing(1, Write("s", 0, B1, [0], [b"v"])))  # it is dropped
    await turns()
    assert (link.up, link.trouble) == (False, "closed")  # nobody began it
    link.start(heard, 3)
    assert (link.name, link.up, link.trouble) == ("here", True, "")
    assert (link.quiet, link.refused, link.max_value) == (False, None, 77)
    assert not link.congested()
    link.post(Outgoing(2, Read("s", 0, [(0, 1)])))
    assert heard.messages == []
    await turns(1)
    assert heard.messages == [(3, 2, Report([], -1))]
    await link.close()


async def test_a_link_that_is_closed_hears_nothing_more_and_closes_the_store() -> None:
    wrong: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: wrong.append(what))
    engine, heard = MemoryEngine(), Heard()
    node = Node(engine)
    link, other, others = LocalLink(node, "here"), LocalLink(node, "there"), Heard()
    link.start(heard, 0)
    other.start(others, 1)
    link.post(Outgoing(1, Listen("s", 0, 9)))
    other.post(Outgoing(2, Listen("s", 0, 9)))
    await turns()
    assert heard.messages == [(0, 1, Done())]
    other.post(Outgoing(3, Write("s", 0, B1, [0], [b"v"])))
    link.post(Outgoing(5, Read("s", 0, [(0, 1)])))
    await link.close()
    await turns()
    assert (link.up, link.trouble, other.up) == (False, "closed", True)
    assert heard.messages == [(0, 1, Done())]
    told = Accepted("s", 0, B1, [0], [b"v"])
    assert others.messages == [(1, 2, Done()), (1, 3, Written([])), (1, 2, told)]
    assert node.metrics()["listeners"] == 1
    link.post(Outgoing(4, Read("s", 0, [(0, 1)])))
    await turns()
    assert len(heard.messages) == 1
    assert engine.view.closed
    assert wrong == []
