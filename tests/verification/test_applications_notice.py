"""A change of the applications that breaks what they promise makes layer 4 fail."""

from __future__ import annotations

from typing import Any

import pytest
from mistakes import some_for_soak
from verification.applications import PACKAGE
from verification.procedures import Again, Register, run
from verification.source import shipped
from verification.symex import Unsupported

from verification import lint, trials
from wormspace.errors import CaptureLost
from wormspace.paxos.effects import to_all

# One process: which function is executed where is found out once.
pytestmark = pytest.mark.xdist_group("layer 4")

BROKEN = [
    ("tx.deciding", "if vote == NO:", "if vote == MISSING:", "a no does not abort"),
    ("tx.deciding", "return YES if vote.yes else NO", "return YES", "every vote counts as yes"),
    ("space.segment", "if captured.written:", "if False:", "a value over another"),
    ("space.segment", "return e.value", "return otherwise", "the value refused is returned"),
    ("tx.participant", "yes = error is None", "yes = True", "yes without having prepared"),
    ("tx.participant", "if decision.committed", "if not decision.committed", "does the opposite"),
    (
        "log.segmented_log",
        "return value == mine",
        "return True",
        "an append is acknowledged that is lost",
    ),
    ("log.segmented_log", "if value is None:", "if False:", "an open slot is taken for lost"),
    ("log.term", "self.at += count", "self.at += 1", "slots are handed out twice"),
    ("log.term", "await self._close(current)", "pass", "the next segment without the seal"),
    ("smr.sessions", "if packet.number < session.low", "if False", "an old packet runs again"),
    ("smr.sessions", "session.low = packet.low", "pass", "what is forgotten runs again"),
    ("smr.engine", "if known is not None:", "if False:", "a packet runs twice"),
    ("smr.term", "if offset not in written]", "if False]", "gaps are not filled"),
    ("smr.term", "max(written, default=start - 1)", "max([start - 1])", "entries are lost"),
    ("smr.leaderless", "if value is None:", "if True:", "a register is written over"),
    ("space.space", "return captured.written[METADATA] == raw", "return True", "two winners"),
    ("space.space", "while not await self", "while await self", "another's is taken for its own"),
    ("smr.term", "position.segment == segment", "position.segment <= segment", "not from 0"),
    (
        "tx.participant",
        "            plan.participants,\n",
        "            (),\n",
        "who takes part is lost",
    ),
    ("tx.in_flight", "if decision is not None:", "if True:", "told a decision that is none"),
]


@pytest.mark.soak  # `make prove` shows it in each run of CI
def test_layer_4_holds_for_what_ships() -> None:
    assert not trials.killed_application({}).killed


@pytest.mark.parametrize(("module", "old", "new", "what"), some_for_soak(BROKEN))
def test_layer_4_fails_when(module: str, old: str, new: str, what: str) -> None:
    text = shipped(PACKAGE)[module]
    assert text.count(old) >= 1, f"the source no longer says {old!r}: choose another mutation"
    assert trials.killed_application({module: text.replace(old, new)}).killed, what


def test_a_retry_that_is_not_like_the_first_attempt_is_refused() -> None:
    async def retries(register: Register, forget: bool) -> None:
        seen = object()
        while True:
            if (await register.capture(0)).written:
                return
            try:
                await register.write(0, b"value")
            except CaptureLost:
                if forget:
                    seen = object()
                assert seen

    def scenario(forget: bool) -> Any:
        register = Register()
        return retries(register, forget), register

    ends = [path.result.error for path in run(lambda: scenario(False))]
    assert any(isinstance(end, Again) for end in ends)
    with pytest.raises(Unsupported, match="a retry with another seen"):
        run(lambda: scenario(True))


@pytest.mark.parametrize("line", ["except Exception: pass", "except: pass"])
def test_a_procedure_may_not_swallow_what_is_refused(line: str) -> None:
    text = f"async def on_test(x):\n    try:\n        await x\n    {line}\n"
    assert lint.procedures({"m": text}, ["m.on_test"])
    assert lint.procedures({"m": "async def on_test(x, y):\n    return x is y"}, ["m.on_test"])
    assert not lint.procedures({"m": "async def on_test(x):\n    return x is None"}, ["m.on_test"])


def test_to_all_sends_to_all_but_those_left_out() -> None:
    for servers in range(1, 8):
        for but in range(1 << servers):
            sent = [send.server for send in to_all(servers, "message", but)]  # type: ignore[arg-type]
            assert sent == [i for i in range(servers) if not but & 2**i]
