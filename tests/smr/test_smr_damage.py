"""Snapshots that are damaged, and those that are not there yet: nothing acknowledged is lost."""

import asyncio
import logging
import random

import pytest
from smr_worlds import Group, Witness

import wormspace
from wormspace.sim import World
from wormspace.smr import (
    BadSnapshot,
    Dict,
    LocalSnapshots,
    MemorySnapshots,
    NoSnapshot,
    Sticky,
    TrimBehindSnapshots,
    Tuning,
)
from wormspace.smr.engine import Engine
from wormspace.smr.snapshots import Snapshot, restore
from wormspace.space import Space

ROWS = 60


def options(place, copies=1):
    return {
        "durability": TrimBehindSnapshots(place, registers=4, copies=copies, every_s=0.02),
        "tuning": Tuning(segment_size=4),
        "leadership": Sticky(0.1),
        "timeout": 20.0,
    }


async def fill(worm, place):
    """An object whose beginning is trimmed, and a snapshot of it in a file."""
    async with await worm.replicate(Dict, "names", **options(place)) as names:
        for n in range(ROWS):
            await names.set(str(n), b"v")
        async with asyncio.timeout(30):
            while await worm.space("names").head() < 3:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
    (file,) = place.glob("*.snapshot")
    return file


def harm(file, how):
    raw = bytearray(file.read_bytes())
    if how == "flipped":
        raw[3 * len(raw) // 4] ^= 1  # behind the head, which says whose it is
    elif how == "cut short":
        del raw[-5:]
    elif how == "zeroed":
        raw[-100:] = bytes(100)
    elif how == "absurd size":
        raw[:4] = b"\xff" * 4
    elif how == "empty":
        raw.clear()
    elif how == "something else":
        raw[:] = b"\x00\x00\x00\x05hello"
    file.write_bytes(raw)


HARMS = ["flipped", "cut short", "zeroed", "absurd size", "empty", "something else"]


async def test_every_single_byte_of_a_snapshot_counts():
    engine = Engine(Dict())
    engine.machine.items_.update({str(n): b"v" for n in range(20)})
    pieces = list(Snapshot(engine).pieces())

    async def stream(pieces):
        for piece in pieces:
            yield piece

    for index, piece in enumerate(pieces):
        for at in range(len(piece)):
            wrong = bytearray(piece)
            wrong[at] ^= 1 << random.Random(at).randrange(8)
            with pytest.raises((BadSnapshot, wormspace.errors.UsageError)):
                await restore(Dict, stream([*pieces[:index], bytes(wrong), *pieces[index + 1 :]]))


@pytest.mark.parametrize("how", HARMS)
async def test_a_replica_with_a_damaged_snapshot_gets_the_state_from_another(how, tmp_path, caplog):
    async with wormspace.connect("memory:") as worm:
        file = await fill(worm, tmp_path / "one")
        async with await worm.replicate(Dict, "names", **options(tmp_path / "one")):
            other = await worm.replicate(Dict, "names", **options(tmp_path / "two"))
            harm(file, how)
            whole = file.read_bytes()
            async with (
                other,
                await worm.replicate(Dict, "names", **options(tmp_path / "one")) as again,
            ):
                assert await again.size() == ROWS
                if how != "empty":  # an empty file is none
                    assert "is of no use" in caplog.text
                await again.set("more", b"")
                async with asyncio.timeout(30):
                    while file.read_bytes() == whole:
                        await again.set("more", b"")
                        await asyncio.sleep(0.01)
        async with await worm.replicate(Dict, "names", **options(tmp_path / "one")) as again:
            assert await again.size() == ROWS + 1, "the next snapshot has replaced it"


async def test_a_damaged_snapshot_and_nobody_else_is_an_error_and_no_empty_object(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("wormspace.smr.catching_up.CATCH_UP_S", 0.5)
    monkeypatch.setattr("wormspace.smr.catching_up.FETCH_TIMEOUT_S", 0.2)
    async with wormspace.connect("memory:") as worm:
        harm(await fill(worm, tmp_path), "flipped")
        with pytest.raises(NoSnapshot, match="damaged"):
            await worm.replicate(Dict, "names", **options(tmp_path))


async def test_a_damaged_snapshot_of_what_is_still_in_the_space_is_passed_over(tmp_path):
    async with wormspace.connect("memory:") as worm:
        async with await worm.replicate(Dict, "names", leadership=Sticky(0.1)) as names:
            for n in range(ROWS):
                await names.set(str(n), b"v")
        store = LocalSnapshots(tmp_path)
        store._path("names").write_bytes(b"\x00\x00\x00\x05hello")
        async with await worm.replicate(Dict, "names", **options(tmp_path)) as names:
            assert await names.size() == ROWS


# ------------------------------------------------------------ the order of durable steps


class Slow(LocalSnapshots):
    """Like a directory, to which saving takes time; what is there counts when saving is over."""

    def __init__(self, rng):
        super().__init__("nowhere")
        self._memory = MemorySnapshots()
        self._rng = rng

    def claim(self, name):
        """One replica has it at a time, and a claim ends with its simulated process."""
        return self

    def close(self):
        pass

    async def save(self, name, position, pieces):
        async def slowly():
            async for piece in pieces:
                yield piece
                await asyncio.sleep(self._rng.uniform(0.05, 0.4))

        await self._memory.save(name, position, slowly())

    def load(self, name):
        return self._memory.load(name)

    def reaches(self, name):
        """How far the snapshot goes that is there, as the snapshot says itself."""
        kept = self._memory._kept.get(name)
        return None if kept is None else kept[0]


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 8))]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_segment_goes_before_snapshots_beyond_it_are_kept(seed, monkeypatch):
    """At each trim, as many places as were asked for have a snapshot that begins behind it."""
    logging.getLogger("wormspace").setLevel(logging.CRITICAL)
    with World(seed) as world, Witness() as witness:
        places = {}
        trims = []
        trim = Space.trim_prefix

        async def watched(space, stop, **rest):
            reached = [place.reaches(space.name) for place in places.values()]
            beyond = [one for one in reached if one is not None and one.segment >= stop]
            trims.append((stop, len(beyond)))
            return await trim(space, stop, **rest)

        monkeypatch.setattr(Space, "trim_prefix", watched)

        def each(name):
            place = places.setdefault(name, Slow(world.random_for(f"place {name}")))
            durability = TrimBehindSnapshots(place, registers=6, copies=2, every_s=0.05)
            return {"durability": durability, "leadership": Sticky(0.5)}

        group = Group(world, options=each, size=4)

        async def drive():
            group.start_servers()
            group.start_replicas(group.work)
            await group.all_started()
            rng = world.random_for("kills")
            for _ in range(4):
                await asyncio.sleep(rng.uniform(1.0, 3.0))
                name = rng.choice(group.names)
                group.replicas.pop(name, None)
                world.host(name).processes[-1].crash()
                await asyncio.sleep(rng.uniform(0.1, 1.0))
                group.start_replica(name)
            await asyncio.sleep(3)
            await group.settle()

        world.run(drive(), deadline_s=200)
        witness.check()
        group.check()
        assert any(stop > 3 for stop, _ in trims)
        assert all(beyond >= 2 for _, beyond in trims), trims
