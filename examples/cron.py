"""Cron on several machines, of which one at a time runs the jobs.

Every machine runs this with the same jobs.  They elect a leader; it runs what is due.  When it
dies, another takes over within the time of a lease.  Each run of a job is claimed in the state
before it starts, under the leader's fencing token, so no run is started twice, not even by a
leader that was frozen and does not know that its time is over.  (A run whose leader dies in the
middle is not repeated: that is the choice of this example.)

    python examples/cron.py --url worm://... --name a 'backup every 3600: tar c /data' \\
                                                      'beat every 5: date'
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import re

import msgspec

import wormspace
from wormspace.errors import WormError
from wormspace.smr import (
    Election,
    Grant,
    LeaseLost,
    Replica,
    command,
    holding,
    query,
)

LEASE_S = 3.0
TICK_S = 0.2

log = logging.getLogger("cron")


class Run(msgspec.Struct, frozen=True):
    """The last run of a job: when it was claimed, and what came of it (None: nothing yet)."""

    at: float
    by: str
    exit_code: int | None = None


class Cron(Election):
    """Who leads, and which runs there were."""

    runs: dict[str, Run] = msgspec.field(default_factory=dict)

    @command
    def claim(self, job: str, every_s: float, fence: int) -> bool:
        """Whether the job is due and the holder of `fence` may run it, now."""
        if self.grant is None or self.grant.fence != fence:
            return False
        last = self.runs.get(job)
        if last is not None and self.now - last.at < every_s:
            return False
        self.runs[job] = Run(self.now, self.grant.owner)
        return True

    @command
    def finish(self, job: str, exit_code: int) -> None:
        """Note what came of a run."""
        last = self.runs[job]
        self.runs[job] = Run(last.at, last.by, exit_code)

    @query
    def table(self) -> dict[str, Run]:
        """The last run of every job."""
        return self.runs


class Job(msgspec.Struct, frozen=True):
    """What to run how often."""

    name: str
    every_s: float
    shell: str

    @classmethod
    def parse(cls, text: str) -> Job:
        """A job as it is written on the command line."""
        found = re.fullmatch(r"(\S+) every ([\d.]+): *(.+)", text)
        if found is None:
            raise SystemExit(f"a job is 'NAME every SECONDS: COMMAND', not {text!r}")
        return cls(found[1], float(found[2]), found[3])


async def lead(cron: Replica[Cron], grant: Grant, jobs: list[Job]) -> None:
    """Run what is due, for as long as this machine leads."""
    log.info("%s leads (term %d)", grant.owner, grant.fence)
    async with asyncio.TaskGroup() as running:
        while True:
            for job in jobs:
                if await cron.call(Cron.claim, job.name, job.every_s, grant.fence):
                    running.create_task(run(cron, job))
            await asyncio.sleep(TICK_S)


async def run(cron: Replica[Cron], job: Job) -> None:
    """One run of one job; it is killed when this machine does not lead any more."""
    process = await asyncio.create_subprocess_shell(job.shell)
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise
    log.info("%s: exit code %d", job.name, code)
    await cron.call(Cron.finish, job.name, code)


async def main() -> None:
    """Stand for election, lead, and again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--url", default="file:./cron", help="the address space")
    parser.add_argument("--host", default="127.0.0.1", help="how other replicas reach this one")
    parser.add_argument("--name", required=True, help="this machine's name, unlike any other's")
    parser.add_argument("job", nargs="+", help="NAME every SECONDS: COMMAND")
    arguments = parser.parse_args()
    jobs = [Job.parse(text) for text in arguments.job]
    logging.basicConfig(level="INFO", format="%(message)s")
    async with (
        wormspace.connect(arguments.url) as worm,
        await worm.replicate(Cron, "cron", replica=arguments.name, host=arguments.host) as cron,
    ):
        while True:
            try:
                async with holding(cron, arguments.name, LEASE_S) as grant:
                    await lead(cron, grant, jobs)
            except* (LeaseLost, WormError) as e:
                log.info("%s: %s", arguments.name, e.exceptions[0])


if __name__ == "__main__":
    asyncio.run(main())
