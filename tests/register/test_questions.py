"""Questions of administration: asked of one server, and again when its link is up again."""

import asyncio
from types import SimpleNamespace

from wormspace.registers.paxos.administration import ask, ask_majority
from wormspace.wire.messages import Metrics, Status

ANSWER = Metrics({})


class Played:
    """A partition of three servers, all up, that a test plays; who was asked, in order."""

    size = 3

    def __init__(self):
        self.links = [SimpleNamespace(up=True) for _ in range(3)]
        self.operations = {}
        self.asked = []

    def enter(self, operation):
        self.operations[len(self.operations)] = operation
        return len(self.operations) - 1

    def leave(self, request_id):
        del self.operations[request_id]

    def tell(self, server, request_id, message):
        assert message == Status()
        self.asked.append((server, request_id))


def until() -> float:
    return asyncio.get_running_loop().time() + 60


async def settled() -> None:
    """Whatever is ready has run."""
    for _ in range(9):
        await asyncio.sleep(0)


async def test_a_question_is_asked_again_when_its_server_is_back_and_of_no_other():
    partition = Played()
    asking = asyncio.ensure_future(ask(partition, 1, Status(), until()))
    await settled()
    (question,) = partition.operations.values()
    for server in range(3):
        question.on_down(server)
        question.on_up(server)
    assert partition.asked == [(1, 0), (1, 0)]
    question.on_message(1, ANSWER)
    question.on_message(1, Metrics({"late": 1}))  # that to the first asking
    assert await asking == ANSWER
    assert partition.operations == {}


async def test_a_majority_is_waited_for_and_no_longer():
    partition = Played()
    asking = asyncio.ensure_future(ask_majority(partition, Status(), until()))
    await settled()
    first, _, third = partition.operations.values()
    third.on_message(2, ANSWER)
    await settled()
    assert not asking.done()
    first.on_message(0, ANSWER)
    assert await asking == [ANSWER, None, ANSWER]
    await settled()
    assert partition.operations == {}, "the third is left"
