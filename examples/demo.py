"""A story of three servers: `make demo`.

Every line it prints is checked: if something is not as told, it says so and fails.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

import wormspace
from wormspace.cli.layout import create, plan
from wormspace.cli.processes import LocalCluster

PAUSE_S = 0.7
PATIENT_S, IMPATIENT_S = 20.0, 1.0
WIDEST = 100

console = Console(highlight=False)


class NotAsTold(Exception):
    """Something else happened than the story says."""


class Narrator:
    """Tells the steps, with the state of the servers beside each."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._step = 0

    async def step(self, text: str) -> None:
        """A new step."""
        if console.is_terminal:
            await asyncio.sleep(PAUSE_S)
        self._step += 1
        line = Text.assemble(("\n" if self._step == 1 else ""), (f"{self._step:>3}  ", "cyan"))
        for process in self._cluster.processes:
            line.append("● " if process.alive else "✗ ", "green" if process.alive else "bold red")
        line.append(" ")
        line.append(Text.from_markup(text))
        console.print(line, soft_wrap=True)

    def result(self, text: str, style: str = "dim") -> None:
        """What came of it."""
        indent = " " * 12
        room = max(40, min(console.width, WIDEST) - len(indent) - 2)
        lines = textwrap.wrap(text, room) or [""]
        for mark, line in zip(["→ ", *["  "] * len(lines)], lines, strict=False):
            console.print(Text(indent + mark + line, style), soft_wrap=True)

    @contextmanager
    def refusal(self, error: type[wormspace.WormError]) -> Iterator[None]:
        """What is inside must fail with `error`, which is then shown."""
        try:
            yield
        except error as e:
            said = str(e).split(";")[0]
            self.result(f"{type(e).__name__}: {said}", "yellow")
        else:
            raise NotAsTold(f"it should have failed with {error.__name__}")


def check(holds: bool, otherwise: str) -> None:
    """The story goes on only if it is true so far."""
    if not holds:
        raise NotAsTold(otherwise)


async def tell(cluster: LocalCluster) -> None:
    """The story."""
    url = cluster.config.url
    story = Narrator(cluster)
    await cluster.start()
    await story.step("Three servers run: three processes, each with its own disk.")
    async with (
        wormspace.connect(url, timeout=PATIENT_S) as alice,
        wormspace.connect(url, timeout=PATIENT_S) as bob,
    ):
        decided = await race(story, alice, bob)
        await lose_servers(story, cluster, alice, decided)
        await restart(story, cluster, bob, decided)
        await trim(story, bob)


async def race(story: Narrator, alice: wormspace.Worm, bob: wormspace.Worm) -> dict[int, bytes]:
    """Two clients, one register; returns what was decided, by offset."""
    await story.step("Alice [b]allocates[/] a segment of “orders”: eight empty registers.")
    hers = await alice.space("orders").alloc(b"for the demo", size=8)
    check(await bob.space("orders").check(0) == b"for the demo", "Bob sees another segment")
    story.result(f"segment orders/{hers.number}, for {hers.metadata.decode()!r}")

    await story.step("She [b]captures[/] it. The token may travel to another machine.")
    mine = await hers.capture()
    story.result(str(mine.token))

    await story.step("Bob captures register 0 too: captures can be stolen…")
    his = await bob.space("orders").segment(0)
    stolen = await his.capture(0)

    await story.step("…so Alice's [b]write[/] to it is refused.")
    with story.refusal(wormspace.CaptureLost):
        await hers.write(0, b"Alice was here", mine.token)

    await story.step("Bob writes it; Alice writes the next three, which are still hers.")
    decided = {0: b"Bob was here", 1: b"one", 2: b"two", 3: b"three"}
    await his.write(0, decided[0], stolen.token)
    await hers.write_range(1, [decided[1], decided[2], decided[3]], mine.token)

    await story.step("Everybody [b]reads[/] the same, now and for ever.")
    for reader in (hers, his):
        await expect(reader, decided)
    story.result(", ".join(f"{offset}: {value.decode()}" for offset, value in decided.items()))

    await story.step("Nobody can change it, whoever captures it again.")
    again = await hers.capture(0)
    with story.refusal(wormspace.AlreadyWritten):
        await hers.write(0, b"Alice insists", again.token)
    return decided


async def expect(segment: wormspace.Segment, decided: dict[int, bytes]) -> None:
    """The segment holds just that."""
    values = await segment.read_range()
    check(values == [decided.get(i) for i in range(segment.size)], f"it reads {values}")


async def lose_servers(
    story: Narrator, cluster: LocalCluster, alice: wormspace.Worm, decided: dict[int, bytes]
) -> None:
    """One server fewer is no matter; two of three are."""
    segment = await alice.space("orders").segment(0)
    captured = await segment.capture(4, 8)
    cluster.find("s1").kill()
    await story.step("[b]kill -9[/] one server: two of three are a majority, all goes on.")
    decided[4] = b"written with one server down"
    await segment.write(4, decided[4], captured.token)
    await expect(segment, decided)
    story.result(f"4: {decided[4].decode()}")

    cluster.find("s2").kill()
    await story.step(f"[b]kill -9[/] another. Alice gives a write {IMPATIENT_S:.0f} second.")
    with story.refusal(wormspace.Unavailable):
        await segment.write(5, b"written, perhaps", captured.token, timeout=IMPATIENT_S)


async def restart(
    story: Narrator, cluster: LocalCluster, bob: wormspace.Worm, decided: dict[int, bytes]
) -> None:
    """What was decided is on the disks; what was uncertain is settled."""
    for name in ("s1", "s2"):
        cluster.find(name).start()
    await cluster.wait_until_reachable()
    await story.step("Both start again from disk. Bob [b]settles[/] the uncertain write.")
    segment = await bob.space("orders").segment(0)
    fate = await segment.settle(5, b"never written")
    check(fate in (b"never written", b"written, perhaps"), f"it was settled as {fate!r}")
    decided[5] = fate
    happened = "it did happen" if fate == b"written, perhaps" else "and it never will be"
    story.result(f"5: {fate.decode()}: {happened}")

    await story.step("And every value that was ever acknowledged is there.")
    await expect(segment, decided)
    story.result(f"{len(decided)} registers read, none lost")


async def trim(story: Narrator, bob: wormspace.Worm) -> None:
    """The end of the segment."""
    await story.step("Bob [b]trims[/] the segment: now it is garbage, for everybody.")
    segment = await bob.space("orders").segment(0)
    await segment.trim()
    with story.refusal(wormspace.Trimmed):
        await segment.read(0)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def main() -> int:
    """Run it in a directory of its own; returns the exit code."""
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda number, _: sys.exit(128 + number))  # cleans up on its way
    with tempfile.TemporaryDirectory(prefix="wormspace-demo-") as directory:
        config = plan(3, ports=free_ports(3))
        cluster = LocalCluster(create(config, Path(directory)), config)
        try:
            asyncio.run(tell(cluster))
        except (NotAsTold, wormspace.WormError) as e:
            console.print(f"\nNot as told: {e}", style="bold red", markup=False)
            return 1
        finally:
            cluster.stop()
    console.print("\n            All as told. Next: [b]wormspace up[/], and README.md.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
