"""An audit trail: what happened, in one order, kept for a while, and readable by subject.

    python examples/audit_trail.py [URL]

Each event is an entry; each subject (an account, a document) is a stream, so its history is read
without the rest of the trail.  An auditor follows everything, and may come back after a crash.
"""

from __future__ import annotations

import asyncio
import json
import sys

import wormspace
from wormspace.log import Log


async def record(trail: Log, actor: str, action: str, *subjects: str) -> int:
    """Note that `actor` did `action` to `subjects`; returns its place in the trail."""
    body = json.dumps({"actor": actor, "action": action}).encode()
    return await trail.append(body, headers={"actor": actor}, streams=subjects)


async def history(trail: Log, subject: str) -> list[str]:
    """All that was ever done to a subject, in order."""
    entries = await trail.read_stream(subject)
    return [f"{e.headers['actor']}: {json.loads(e.body)['action']}" for e in entries]


async def audit(trail: Log, alarming: str, count: int) -> list[str]:
    """Look at the next `count` events; at least once, however often the auditor dies."""
    cursor = trail.cursor("auditor")
    alarms = []
    seen = 0
    async for entry in trail.listen(await cursor.load()):
        event = json.loads(entry.body)
        if event["action"] == alarming:
            alarms.append(f"position {entry.position}: {event['actor']}")
        await cursor.commit(entry.position + 1)
        seen += 1
        if seen == count:
            break
    return alarms


async def main(url: str) -> None:
    """The story."""
    async with wormspace.connect(url) as worm:
        trail = await worm.log("audit")
        await record(trail, "ann", "opened", "account-1")
        await record(trail, "bob", "opened", "account-2")
        await record(trail, "ann", "transferred", "account-1", "account-2")
        await record(trail, "eve", "deleted", "account-2")

        print("account-1:", *await history(trail, "account-1"), sep="\n  ")
        print("account-2:", *await history(trail, "account-2"), sep="\n  ")
        print("alarms of the first half:", await audit(trail, "deleted", 2))
        print("alarms of the second half:", await audit(trail, "deleted", 2))

        first = await trail.trim_older(30 * 24 * 3600)
        print(f"older than 30 days is forgotten; the trail begins at {first}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "memory:"))
