"""`file:` and real processes: one at a time, durable through `kill -9`, quick to open again."""

import os
import random
import resource
import subprocess
import sys

import pytest

import wormspace
import wormspace.sync
from wormspace import StoreLocked
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import Read, Report
from wormspace.server import identity, tables
from wormspace.server.identity import Identity
from wormspace.server.node import Node
from wormspace.server.storage import AcceptorStore

pytestmark = pytest.mark.processes

HOLD = """
import sys, wormspace.sync
worm = wormspace.sync.connect(sys.argv[1])
print("open", flush=True)
input()
"""

WRITE = """
import sys, wormspace.sync
worm = wormspace.sync.connect(sys.argv[1])
space = worm.space("s")
segment = space.alloc(size=10_000)
token = segment.capture().token
for i in range(10_000):
    segment.write(i, b"%d/%d" % (segment.number, i), token)
    print(segment.number, i, flush=True)
"""


def start(program, url):
    return subprocess.Popen(
        [sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_two_processes_that_open_one_file_get_a_clear_error_and_the_first_goes_on(tmp_path):
    url = f"file:{tmp_path / 'store'}"
    first = start(HOLD, url)
    try:
        assert first.stdout.readline() == b"open\n"
        with pytest.raises(StoreLocked, match="open already, in another process"):
            wormspace.sync.connect(url)
        assert first.poll() is None
    finally:
        first.communicate(b"\n", timeout=20)
    with wormspace.sync.connect(url) as worm:
        worm.space("s").alloc(size=1)


def test_killing_an_embedded_writer_loses_nothing_it_was_told(tmp_path):
    """Dozens of deaths at random moments; whoever opens the file next finds every write."""
    seed = int(os.environ.get("WORMSPACE_SEED", random.SystemRandom().getrandbits(32)))
    print(f"WORMSPACE_SEED={seed}")
    rng = random.Random(seed)
    url = f"file:{tmp_path / 'store'}"
    acked = {}
    for _ in range(10):
        writer = start(WRITE, url)
        for _ in range(rng.randint(1, 200)):
            number, offset = map(int, writer.stdout.readline().split())
            acked[number, offset] = b"%d/%d" % (number, offset)
        writer.kill()
        rest, _ = writer.communicate()
        for line in rest.split(b"\n")[:-1]:
            number, offset = map(int, line.split())
            acked[number, offset] = b"%d/%d" % (number, offset)
    with wormspace.sync.connect(url) as worm:
        for number in {number for number, _ in acked}:
            values = worm.space("s").segment(number).read_range()
            for offset, value in enumerate(values):
                expected = acked.get((number, offset))
                assert expected is None or value == expected
                assert value in (None, b"%d/%d" % (number, offset))


# ---------------------------------------------------------------------------- restart


async def furnish(path, registers):
    """A store with so many written registers, in segments of 10,000."""
    engine = AcceptorStore(path, durability="os")
    await identity.prepare(engine, Identity(cluster="c", server="s1", members=("s1",)), path)
    b = ballot(1, b"proposer")
    for first in range(0, registers, 10_000):
        batch = engine.begin()
        space = tables.intern_space(batch, "s")
        prefix = tables.segment_key(space, first // 10_000)
        batch.put_many(
            tables.ROWS,
            [
                (key, b + bytes(100))
                for key in tables.row_keys(prefix, list(range(min(10_000, registers - first))))
            ],
        )
        await engine.commit(batch)
    engine.close()


OPEN = """
import asyncio, resource, sys
from pathlib import Path
from wormspace.knobs import turned
from wormspace.paxos.messages import Read, Report
from wormspace.server import identity
from wormspace.server.identity import Identity
from wormspace.server.storage import AcceptorStore
from wormspace.server.node import Node

class Port:
    def answer(self, request_id, message):
        self.message = message

async def run():
    def faults():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_minflt + usage.ru_majflt
    before = faults()
    with turned(store_check_leaves=0):  # they are read at most, and not mapped
        engine = AcceptorStore(Path(sys.argv[1]))
    identity.require(engine, Identity(cluster="c", server="s1", members=("s1",)), Path(sys.argv[1]))
    node, port = Node(engine), Port()
    node.submit(port, 1, Read("s", 0, [(5, 6)]))
    assert isinstance(port.message, Report) and len(port.message.rows) == 1
    print(faults() - before)
    await node.stop()

asyncio.run(run())
"""


async def test_opening_a_store_does_not_read_its_registers(tmp_path):
    """Counted in pages touched, from opening the directory to the first answer."""
    faults = {}
    for registers in (1_000, 300_000):
        path = tmp_path / str(registers)
        await furnish(path, registers)
        program = start(OPEN, path)
        out, _ = program.communicate(timeout=60)
        faults[registers] = int(out)
    assert (tmp_path / "300000" / "data.mdb").stat().st_size > 30_000_000
    pages = (tmp_path / "300000" / "data.mdb").stat().st_size // 4096
    assert faults[300_000] < faults[1_000] + pages // 5, faults  # its branches, and their numbers


async def test_reading_a_register_of_a_large_store_does_not_load_it(tmp_path):
    """Registers are found in the store, not in memory: what a server holds costs it no room."""
    await furnish(tmp_path, 100_000)
    engine = AcceptorStore(tmp_path)
    node = Node(engine)

    class Port:
        def answer(self, request_id, message):
            self.message = message

    port = Port()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for segment in range(10):
        node.submit(port, 1, Read("s", segment, [(9_999, 10_000)]))
        assert isinstance(port.message, Report)
        assert len(port.message.rows) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 500
    await node.stop()


async def test_trimming_a_million_registers_gives_their_space_back(tmp_path):
    """The second million fits into what the first one took; however long the sweep may take."""
    sizes = []
    async with wormspace.connect(f"file:{tmp_path / 'store'}?durability=os", timeout=60) as worm:
        space = worm.space("s")
        for _ in range(3):
            segment = await space.alloc(size=1_000_000)
            token = (await segment.capture()).token
            for start in (0, 995_000):
                await segment.write_range(start, [bytes(50)] * 5_000, token)
            assert (await worm.servers())[0].metrics["store_used_bytes"] > 500_000
            await segment.trim()
            while (metrics := (await worm.servers())[0].metrics)["store_used_bytes"] > 200_000:
                pass
            sizes.append(metrics["store_bytes"])
        assert sizes[2] < 1.5 * sizes[0]
