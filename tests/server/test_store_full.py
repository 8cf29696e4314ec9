"""A full store: writes are refused with a clear error, nothing is lost, reads go on, room heals."""

import asyncio
import contextlib
import os
import subprocess

import pytest

import wormspace
from inprocess import IDENTITY, Raw, serving
from wormspace import ServerFull, Trimmed, Unavailable
from wormspace.addresses import TRIM
from wormspace.paxos.ballot import UNSAFE, ballot
from wormspace.paxos.messages import Capture, Done, Promise, Read, Report, Trim, Write, Written
from wormspace.server.limits import ServerIdentity
from wormspace.server.storage import AcceptorStore
from wormspace.wire.messages import FULL, Failed, Status

B1 = ballot(1, b"proposer")
SIZES = (20_000, 2_000, 100)


async def fill(raw, segment=0, sizes=SIZES):
    """Write until not even a small value fits; returns what was accepted."""
    accepted, offset = {}, 0
    for size in sizes:
        while True:
            value = bytes([offset % 256]) * size
            answer = await raw.call(Write("s", segment, B1, [offset], [value]))
            if isinstance(answer, Failed):
                assert answer.code == FULL
                assert answer.text
                break
            assert answer == Written([])
            accepted[offset] = value
            offset += 1
    return accepted


async def read_all(raw, segment, stop):
    rows, at = {}, 0
    while at != -1:
        report = await raw.call(Read("s", segment, [(at, stop)]))
        assert isinstance(report, Report)
        rows.update({r.offset: r.value for r in report.rows})
        at = report.next
    return rows


@contextlib.asynccontextmanager
async def small_store(path, max_bytes=1 << 20):
    async with serving(AcceptorStore(path, durability="os", max_bytes=max_bytes)) as server:
        raw = await Raw.connect(server.port)
        await raw.call(Capture("s", 0, 0, 1 << 20, B1))
        yield server, raw


async def test_a_full_store_refuses_writes_and_goes_on_serving_reads(tmp_path):
    async with small_store(tmp_path / "store") as (server, raw):
        accepted = await fill(raw)
        assert len(accepted) > 30
        assert await read_all(raw, 0, 1 << 20) == accepted
        assert (await raw.call(Status())).metrics["store_full"] >= len(SIZES)
        assert not server.failed.done()


async def test_what_was_accepted_survives_the_restart_of_a_full_store(tmp_path):
    async with small_store(tmp_path / "store") as (_, raw):
        accepted = await fill(raw)
    async with serving(AcceptorStore(tmp_path / "store", max_bytes=1 << 20)) as server:
        raw = await Raw.connect(server.port)
        assert await read_all(raw, 0, 1 << 20) == accepted


async def until_swept(raw):
    """Wait until the server has deleted what was trimmed."""
    async with asyncio.timeout(20):
        while True:
            before = (await raw.call(Status())).metrics
            await asyncio.sleep(0.01)
            after = (await raw.call(Status())).metrics
            if before["swept"] == after["swept"] > 0:
                return


async def test_trimming_a_full_store_makes_room_again(tmp_path):
    async with small_store(tmp_path / "store") as (_, raw):
        first = await fill(raw)
        async with asyncio.timeout(20):
            assert await raw.call(Trim("s", 0, 1)) == Done()
            await until_swept(raw)
            assert isinstance(await raw.call(Capture("s", 1, 0, 1 << 20, B1)), Promise)
            second = await fill(raw, segment=1)
        assert sum(map(len, second.values())) > 0.8 * sum(map(len, first.values()))
        assert await read_all(raw, 1, 1 << 20) == second


async def test_a_store_that_is_full_to_the_last_byte_can_be_trimmed(tmp_path):
    """A trim is decided by a write, which needs room itself."""
    async with small_store(tmp_path / "store") as (_, raw):
        await fill(raw, sizes=(*SIZES, 10, 0))
        late = Write("s", 0, B1, [1 << 19], [b""])
        raw.request(late)
        raw.request(Write("s", 0, UNSAFE, [TRIM], [b"trimmed"]))  # in one batch with it
        assert (await raw.reply()).message.code == FULL
        assert (await raw.reply()).message == Written([])
        assert (await raw.call(Write("s", 1, UNSAFE, [TRIM], [bytes(100)]))).code == FULL
        assert await raw.call(Trim("s", 0, 1)) == Done()
        await until_swept(raw)
        await raw.call(Capture("s", 1, 0, 1 << 20, B1))
        assert await raw.call(Write("s", 1, B1, [0], [bytes(5000)])) == Written([])


async def test_a_store_of_small_values_makes_room_again_too(tmp_path):
    async with small_store(tmp_path / "store") as (_, raw):
        first = await fill(raw, sizes=(100, 10))
        async with asyncio.timeout(20):
            assert await raw.call(Trim("s", 0, 1)) == Done()
            await until_swept(raw)
            await raw.call(Capture("s", 1, 0, 1 << 20, B1))
            second = await fill(raw, segment=1, sizes=(100, 10))
        assert len(second) > 0.8 * len(first)


async def test_trimming_over_and_over_reuses_the_same_space(tmp_path):
    engine = AcceptorStore(tmp_path / "store", durability="os", max_bytes=8 << 20)
    async with serving(engine) as server:
        raw = await Raw.connect(server.port)
        sizes = []
        for segment in range(120):
            await raw.call(Capture("s", segment, 0, 100, B1))
            values = [bytes(5_000)] * 50
            answer = await raw.call(Write("s", segment, B1, list(range(50)), values))
            assert answer == Written([]), f"segment {segment}"
            assert await raw.call(Trim("s", segment, segment + 1)) == Done()
            await until_swept(raw)
            sizes.append((await raw.call(Status())).metrics["store_bytes"])
        assert max(sizes) <= 4 << 20  # of 30 MB written


async def test_a_server_with_garbage_and_no_room_does_not_spin(tmp_path):
    async with small_store(tmp_path / "store") as (_, raw):
        await fill(raw, sizes=(100, 10, 0))
        raw.request(Trim("s", 0, 1))
        async with asyncio.timeout(20):
            await raw.reply()
            while True:
                metrics = (await raw.call(Status())).metrics
                if metrics["swept"]:
                    break
                await asyncio.sleep(0.01)


async def test_a_client_hears_that_the_servers_are_full_and_that_there_is_room_again(tmp_path):
    engine = AcceptorStore(tmp_path / "store", durability="os", max_bytes=(1 << 20) + 4096)
    async with (
        serving(engine) as server,
        wormspace.connect(f"worm://127.0.0.1:{server.port}", timeout=10) as worm,
    ):
        space = worm.space("s")
        segment = await space.alloc(size=1000)
        token = (await segment.capture()).token
        written, full = 0, None
        while full is None:
            try:
                await segment.write(written, bytes(5_000), token)
            except ServerFull as e:
                full = e
            else:
                written += 1
        assert isinstance(full, Unavailable)
        assert "room" in str(full)
        assert await segment.read(0) == bytes(5_000)
        assert (await segment.read_range(0, written)) == [bytes(5_000)] * written
        await segment.trim()
        with pytest.raises(Trimmed):
            await segment.read(0)
        segment = await space.alloc(size=1000)
        token = (await segment.capture()).token
        for offset in range(written // 2):
            async with asyncio.timeout(10):
                while True:
                    try:
                        await segment.write(offset, bytes(5_000), token)
                    except ServerFull:  # not swept yet
                        continue
                    break


async def test_one_full_server_of_three_does_not_stop_the_others(tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        servers = []
        for i in range(3):
            engine = AcceptorStore(
                tmp_path / f"s{i}", durability="os", max_bytes=(1 << 20) if i == 0 else (64 << 20)
            )
            identity = ServerIdentity(IDENTITY.cluster, f"s{i}", 0, 1, 3)
            servers.append(await stack.enter_async_context(serving(engine, identity=identity)))
        url = "worm://" + ",".join(f"127.0.0.1:{s.port}" for s in servers)
        async with wormspace.connect(url, timeout=10) as worm:
            segment = await worm.space("s").alloc(size=500)
            token = (await segment.capture()).token
            for offset in range(400):
                await segment.write(offset, bytes(5_000), token)
            assert servers[0].node.counters.store_full > 0
            assert await segment.read_range(0, 400) == [bytes(5_000)] * 400


# ---------------------------------------------------------------------------- a real disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 32 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", where], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


async def test_a_full_disk_refuses_writes_loses_nothing_and_heals(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(20_000_000))
    async with small_store(small_disk / "store", max_bytes=1 << 30) as (server, raw):
        accepted = await fill(raw)
        assert len(accepted) > 10
        assert await read_all(raw, 0, 1 << 20) == accepted
        assert not server.failed.done()
        ballast.unlink()  # somebody makes room
        offset = len(accepted)
        value = bytes(20_000)
        assert await raw.call(Write("s", 0, B1, [offset], [value])) == Written([])
        accepted[offset] = value
        assert await read_all(raw, 0, 1 << 20) == accepted
    async with serving(AcceptorStore(small_disk / "store")) as server:
        raw = await Raw.connect(server.port)
        assert await read_all(raw, 0, 1 << 20) == accepted


async def test_a_trim_that_a_full_disk_refused_succeeds_when_there_is_room(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(16_000_000))
    async with small_store(small_disk / "store", max_bytes=1 << 30) as (_, raw):
        await fill(raw)
        answer = await raw.call(Trim("s", 0, 1))
        assert answer == Done() or answer.code == FULL
        ballast.unlink()
        async with asyncio.timeout(20):
            assert await raw.call(Trim("s", 0, 1)) == Done()
            await until_swept(raw)
            await raw.call(Capture("s", 1, 0, 1 << 20, B1))
            assert len(await fill(raw, segment=1)) > 10
