"""A work queue with several workers, on two logs: what is to do, and what was claimed and done.

    python examples/work_queue.py [URL]

Jobs are entries of one log.  Workers agree who does which job by appending claims to another: the
first claim of a job in the log's order counts, and everybody reads the same order.  A worker that
dies in the middle leaves a claim without a result; after a while others give up on it, again by a
claim that all see.  No lock, and no server that assigns.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import wormspace
from wormspace.log import Log

LEASE_S = 0.5


class Board:
    """What the claims say, as far as they were read."""

    def __init__(self, claims: Log) -> None:
        self._claims = claims
        self._next = 0
        self.owner: dict[int, tuple[str, int]] = {}
        self.done: dict[int, str] = {}

    async def catch_up(self) -> None:
        """Read all claims that were appended since."""
        tail = await self._claims.tail()
        for entry in await self._claims.read_range(self._next, tail):
            what, job_text, worker = entry.body.decode().split()
            job = int(job_text)
            if what == "done":
                self.done.setdefault(job, worker)
            elif what == "claim" and job not in self.owner:
                self.owner[job] = (worker, entry.position)
            elif what == "expire" and self._claim_of(job) == int(entry.headers["claim"]):
                # It names the claim that has taken too long: whoever is late takes no other's away.
                del self.owner[job]
        self._next = tail

    def _claim_of(self, job: int) -> int:
        """The position of the claim that counts for a job that is not done; -1 if there is none."""
        return -1 if job in self.done else self.owner.get(job, ("", -1))[1]


async def work(
    name: str, jobs: Log, claims: Log, do: Callable[[str, bytes], Awaitable[None]], total: int
) -> None:
    """One worker: claim, do, say so, until all jobs are done."""
    board = Board(claims)
    loop = asyncio.get_running_loop()
    since: dict[int, float] = {}
    while True:
        await board.catch_up()
        if len(board.done) == total:
            return
        free = [job for job in range(total) if job not in board.owner and job not in board.done]
        if not free:
            for job, (_, claim) in list(board.owner.items()):
                if job in board.done:
                    continue
                if loop.time() - since.setdefault(claim, loop.time()) > LEASE_S:
                    await claims.append(
                        f"expire {job} {name}".encode(), headers={"claim": str(claim)}
                    )
            await asyncio.sleep(0.05)
            continue
        job = free[0]
        position = await claims.append(f"claim {job} {name}".encode())
        await board.catch_up()
        if board.owner.get(job) != (name, position):
            continue  # somebody's claim came first
        entry = await jobs.read(job)
        if entry is not None:
            await do(name, entry.body)
        await claims.append(f"done {job} {name}".encode())


async def main(url: str) -> None:
    """Twenty jobs, four workers, one of which dies over its first job."""
    async with wormspace.connect(url) as worm:
        jobs, claims = await worm.log("jobs"), await worm.log("jobs-claims")
        await jobs.append_many([f"job {n}".encode() for n in range(20)])
        ran: list[tuple[str, str]] = []

        async def do(worker: str, body: bytes) -> None:
            if worker == "mortal":
                await asyncio.Event().wait()
            await asyncio.sleep(0.01)
            ran.append((body.decode(), worker))

        mortal = asyncio.create_task(work("mortal", jobs, claims, do, 20))
        await asyncio.sleep(0.1)
        await asyncio.gather(*(work(w, jobs, claims, do, 20) for w in ("ann", "bob", "cy")))
        mortal.cancel()
        for worker in ("ann", "bob", "cy"):
            print(f"{worker} did {sum(w == worker for _, w in ran)} jobs")
        once = len({job for job, _ in ran}) == len(ran) == 20
        print("every job was done once" if once else f"jobs were repeated or lost: {ran}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "memory:"))
