"""docs/protocol.md says what the codec and a server really do.

`WORMSPACE_REWRITE=1 pytest tests/docs` writes the exchange anew, for review.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import get_args

import pytest
from tests.docs.exchange import render, talk

from wormspace.paxos import messages as paxos
from wormspace.paxos.ranges import Range
from wormspace.server.limits import Limits
from wormspace.wire import messages as wire
from wormspace.wire.accepting import GREETING_BYTES
from wormspace.wire.frames import MAX_FRAME_BYTES

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
BEGIN, END = "<!-- exchange -->\n```text\n", "```\n<!-- /exchange -->"

MESSAGES = [
    wire.Hello,
    wire.Welcome,
    wire.Refusal,
    *get_args(wire.ClientMessage),
    *get_args(wire.ServerMessage),
    wire.ToServer,
    wire.ToClient,
    paxos.Row,
    paxos.RefusedWrite,
    Range,
]


def test_the_exchange_is_what_a_server_says() -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    shown, _, after = rest.partition(END)
    said = render(asyncio.run(talk()))
    if os.environ.get("WORMSPACE_REWRITE"):
        PAGE.write_text(before + BEGIN + said + END + after)
        return
    assert shown == said


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.__name__)
def test_every_message_is_there_with_its_fields_in_order(message: type) -> None:
    tag = message.__struct_config__.tag
    fields = [f'"{tag}"'] if tag else []
    fields += message.__struct_fields__
    assert f"`[{', '.join(fields)}]`" in PAGE.read_text()


def test_every_answer_that_a_request_may_have_is_one() -> None:
    table = PAGE.read_text().partition("| request | fields | answers |")[2].partition("\n\n")[0]
    answers = {
        name for row in table.splitlines() for name in re.findall("`([^`]*)`", row.split(" | ")[-1])
    }
    tags = {message.__struct_config__.tag for message in get_args(wire.ServerMessage)}
    assert len(answers) > 8
    assert answers <= tags


def test_every_code_and_limit_is_there() -> None:
    text = PAGE.read_text()
    codes = (wire.FULL, wire.TOO_LARGE, wire.TOO_MANY, wire.BAD_REQUEST, wire.STOPPING)
    for code in (
        *codes,
        wire.DAMAGED,
        wire.INTERNAL,
        "version",
        "cluster",
        "greeting",
        "busy",
        "malformed",
    ):
        assert f"`{code}`" in text
    for limit in (MAX_FRAME_BYTES, Limits().max_value, paxos.MAX_ITEMS, GREETING_BYTES):
        assert f"{limit:,}" in text
