"""Connections are made, framed and watched in one place, and so is what waits for a turn's end."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "wormspace"

ONE_PLACE = {
    r"\.call_soon\(": {
        "runtime/batching.py": "the one place",
        "server/connection.py": "others have their turn between so many requests",
        "server/local.py": "an answer comes in a later turn, as over a network",
        "registers/paxos/client.py": "an operation begins when all its registers are in it",
        "registers/paxos/capture_operation.py": "a page is merged in a turn of its own",
        "tx/cancelling.py": "a cancellation strikes where the task waits next",
    },
    r"\(asyncio\.(?:Buffered)?Protocol\b": {"wire/connection.py": "the one place"},
    r"\.create_connection\(": {"wire/dial.py": "the one place"},
    r"\.create_server\(": {
        "wire/accepting.py": "the one place",
        "bench/processes.py": "free ports",
    },
    r"\bkeep_alive\(": {"wire/keepalive.py": "it", "wire/connection.py": "the one place"},
    r"\bFrameDecoder\(": {
        "wire/connection.py": "the one place",
        "wire/accepting.py": "who was sent off is read and dropped",
    },
}
"""What is done where, and why there."""


def test_there_is_one_plumbing() -> None:
    """Elsewhere it would lack what was won here: limits, deadlines, a write for each turn."""
    texts = {
        file.relative_to(PACKAGE).as_posix(): file.read_text()
        for file in sorted(PACKAGE.rglob("*.py"))
        if "sim" not in file.relative_to(PACKAGE).parts  # it is the loop, and the network
    }
    for pattern, known in ONE_PLACE.items():
        found = {name for name, text in texts.items() if re.search(pattern, text)}
        assert found == set(known), f"{pattern}: use wire.connection, or runtime.batching"
