"""What a log remembers of cursors and streams is bounded; where cursors may be put is, too."""

import asyncio
import gc
import itertools

import pytest

import wormspace
from wormspace.knobs import KNOBS, turned
from wormspace.log import NotWritten
from wormspace.log.sequencer import Sequencer
from wormspace.log.streams import StreamTable

# ------------------------------------------------------------ cursors


async def test_a_cursor_is_not_put_where_nothing_was_ever_delivered():
    async with wormspace.connect("memory:") as worm:
        log = await worm.log("orders", segment_size=4)
        for wrong in (1, 1000):
            with pytest.raises(NotWritten, match=rf"position {wrong} .* which is 0"):
                await log.cursor("c").commit(wrong)
        for body in (b"a", b"b", b"c"):
            await log.append(body)
        other = await worm.log("orders")
        await other.cursor("c").commit(3)
        with pytest.raises(NotWritten, match=r"position 4 .* the tail, which is 3"):
            await other.cursor("c").commit(4)
        assert await log.cursor("c").load() == 3
        await log.append(b"d")
        await other.cursor("c").commit(4)
        await log.trim(4)
        again = await worm.log("orders")
        await again.cursor("c").commit(4)
        with pytest.raises(NotWritten):
            await again.cursor("c").commit(5)


async def deliver(how, log):
    """Position of the next entry after one that was read in this way."""
    if how == "range":
        return (await log.read_range(2, 4))[-1].position + 1
    if how == "one":
        return (await log.read(5)).position + 1
    if how == "stream":
        return (await log.read_stream("s"))[-1].position + 1
    listening = log.listen(3, stream="s" if how == "subscribed stream" else None)
    entries = [await anext(listening) for _ in range(3)]
    await listening.close()
    return entries[-1].position + 1


@pytest.mark.parametrize("how", ["range", "one", "stream", "subscribed", "subscribed stream"])
async def test_who_commits_what_was_delivered_does_not_wait_for_a_look_at_the_end(how, monkeypatch):
    async with wormspace.connect("memory:") as worm:
        log = await worm.log("orders", segment_size=4)
        for _ in range(7):
            await log.append(b"x", streams=["s"])
        reader = await worm.log("orders")
        position = await deliver(how, reader)

        async def look():
            raise AssertionError("it was looked for the end")

        monkeypatch.setattr(reader._reader, "tail", look)
        await reader.cursor("c").commit(position)
        assert await log.cursor("c").load() == position


async def test_a_place_that_one_asked_for_was_not_delivered():
    async with wormspace.connect("memory:") as worm:
        log = await worm.log("orders")
        await log.append(b"x")
        assert await log.read_range(700, 900) == []
        listening = log.listen(700)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(listening), 0.05)
        await listening.close()
        with pytest.raises(NotWritten):
            await log.cursor("c").commit(700)


async def test_cursors_are_at_hand_in_bounded_number_and_one_object_while_held():
    async with wormspace.connect("memory:") as worm:
        with turned(log_cursors=3):
            log = await worm.log("orders")
            await log.append_many([b"x"] * 50)
            held = log.cursor("held")
            await held.commit(1)
            for i in range(12):
                await log.cursor(f"c{i}").commit(i)
            gc.collect()
            assert len(log._cursors._recent) == 3
            assert len(log._cursors._alive) == 4
            assert log.cursor("held") is held
            for i in range(12):
                assert await log.cursor(f"c{i}").load() == i
                await log.cursor(f"c{i}").commit(i + 1)
            await held.commit(2)
            assert await log.cursor("held").load() == 2
            await log.close()
            with pytest.raises(wormspace.Closed):
                await held.load()


# ------------------------------------------------------------ streams


@pytest.mark.parametrize(("kept", "size"), [(1, 4), (4, 64)])
async def test_streams_that_a_sequencer_has_forgotten_are_read_anew(kept, size, monkeypatch):
    """Of all streams every entry is found, over segments, successors, and entries of several."""
    async with wormspace.connect("memory:") as worm:
        tables = []
        push = StreamTable.push

        def noted(table, *arguments):
            tables.append(table)
            return push(table, *arguments)

        monkeypatch.setattr(StreamTable, "push", noted)
        names = [f"s{i}" for i in range(9)]
        wanted = {name: [] for name in names}
        with turned(log_streams=kept, log_links=1):
            log = await worm.log("orders", segment_size=size, patience_s=0.05)
            for turn, (a, b) in enumerate(itertools.islice(itertools.permutations(names, 2), 40)):
                streams = [a, b] if turn % 3 else [b]
                position = await log.append(b"%d" % turn, streams=streams)
                for name in streams:
                    wanted[name].append(position)
                if turn % 15 == 14:
                    await log.close()
                    log = await worm.log("orders", patience_s=0.05)
                assert all(len(table._latest) <= kept + 2 for table in tables)
            for reader in (log, await worm.log("orders", sequencer="none")):
                for name in [*names, "nobody's"]:
                    found = [entry.position for entry in await reader.read_stream(name)]
                    assert found == wanted.get(name, [])
            await log.append(b"last", streams=names)
            for name in names:
                assert len(await log.read_stream(name)) == len(wanted[name]) + 1
        assert KNOBS.log_streams > kept
        assert isinstance(log._sequencing._sequencer, Sequencer)
