"""The sequencer, asked directly: what it hands out, and what its successor knows."""

import asyncio
import itertools
import random

import pytest
from slots import Start

from virtual import Watch, virtually
from wormspace.errors import Trimmed, Unavailable, UsageError
from wormspace.knobs import KNOBS, turned
from wormspace.log.errors import Deposed
from wormspace.log.messages import Ask, Last, LastOf, Names, NamesOf, Ping, Pong
from wormspace.log.reading import Reader
from wormspace.log.records import HOLE, BatchRecord, Group, Latest, encode, read_seal
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.sequencer import MAX_COUNT, Sequencer, _note_failure
from wormspace.log.spaces import ENTRIES
from wormspace.log.streams import NOWHERE
from wormspace.log.term import ReservedWriter
from wormspace.log.trim_point import Place

SIZE = 8


def sequencer_of(worm, start=None, **options):
    segmented_log = SegmentedLog(worm.space("log"), SIZE, ENTRIES)
    return Sequencer(Reader(segmented_log, start or Start(), 0.1), **options)


class Book:
    """All that was handed out: batches by slot, whether they were written or not."""

    def __init__(self, worm):
        self.worm, self.batches, self.written = worm, {}, {}
        self.next = self.before = 0

    async def ask(self, sequencer, rng, names="abc", write=0.7):
        """Ask for some slots, check what is given, and write into some of them."""
        counts = tuple(rng.randrange(1, 4) for _ in range(rng.randrange(1, 5)))
        named = tuple(
            (
                i,
                {
                    name: rng.randrange(count)
                    for name in rng.sample(names, min(len(names), rng.randrange(3)))
                },
            )
            for i, count in enumerate(counts)
            if rng.random() < 0.5
        )
        ask = Ask(counts, 10 * sum(counts), named)
        given = await sequencer.give(ask)
        slots = [
            run.segment * SIZE + at for run in given.ranges for at in range(run.start, run.stop)
        ]
        assert len(slots) == len(counts)
        assert slots == sorted(set(slots))
        assert slots[0] > max(self.batches, default=-1), "no slot is given twice"
        assert (given.first, given.before) == (self.next, self.before)
        self.next, self.before = given.first + sum(counts), given.before + ask.size
        firsts = list(itertools.accumulate(counts, initial=given.first))
        links = dict(zip([i for i, _ in named], given.links, strict=True))
        for i, slot in enumerate(slots):
            streams = dict(named).get(i, {})
            assert links.get(i, {}) == {name: self.last(name) for name in streams}
            groups = [
                Group(1, {}, tuple(n for n, at in streams.items() if at == k))
                for k in range(counts[i])
            ]
            bodies = [bytes(10)] * counts[i]
            before = given.before + 10 * (firsts[i] - given.first)
            self.batches[slot] = BatchRecord(
                firsts[i], before, b"w", slot, 0, bodies, tuple(groups), links.get(i, {})
            )
        at = iter(slots)
        for run in given.ranges:
            for offset in range(run.start, run.stop):
                slot = next(at)
                if rng.random() < write:
                    held = ReservedWriter(sequencer._segmented_log, run)
                    await held.write(offset, encode(self.batches[slot]))
                    self.written[slot] = self.batches[slot]
        return given

    def last(self, name):
        """The last slots of a stream, of all that was handed out."""
        mine = [slot for slot, batch in self.batches.items() if name in batch.links]
        return tuple(mine[::-1][: KNOBS.log_links])

    def latest(self, name):
        mine = self.last(name)
        if not mine:
            return NOWHERE
        return Latest(self.batches[mine[0]].last_of_streams()[name], mine)


@pytest.mark.parametrize("sole", [True, False])
@pytest.mark.parametrize("unsafe", [True, False])
def test_positions_slots_and_links_go_on_from_what_was_handed_out(sole, unsafe):
    async def work(worm):
        rng, book = random.Random(2 * sole + unsafe), Book(worm)
        sequencer = sequencer_of(worm, sole=sole, unsafe=unsafe)
        for _ in range(14):
            await book.ask(sequencer, rng)
            for name in "abcd":
                said = await sequencer.answer(LastOf(name))
                assert said == Last(book.latest(name), book.next)
        names = await sequencer.answer(NamesOf())
        assert names == Names({name: book.latest(name) for name in "abc" if book.last(name)})

    virtually(work)


def test_a_successor_goes_on_above_all_that_was_written():
    async def work(worm):
        rng, book = random.Random(7), Book(worm)
        sequencer = sequencer_of(worm)
        for turn in range(8):
            for _ in range(3):
                await book.ask(sequencer, rng, names="", write=0.4)
            sequencer = sequencer_of(worm, sole=turn % 2 == 1)
            await sequencer.start()
            book.next, book.before = sequencer._next, sequencer._before
            book.batches = dict(book.written)
            last = book.written[max(book.written)]
            assert book.next == last.end
            assert book.before == last.before + last.size
            assert sequencer._term.at > max(book.written)
        held = await sequencer._segmented_log.read(0, max(book.written) + 1)
        assert HOLE in held
        assert None not in held

    virtually(work)


def test_a_log_of_which_all_is_gone_goes_on_where_it_began():
    async def work(worm):
        sequencer = sequencer_of(worm, Start(40, 0))
        given = await sequencer.give(Ask((2,), 5))
        assert (given.first, given.before) == (40, 0)

    virtually(work)


def test_what_cannot_be_handed_out_is_refused():
    async def work(worm):
        sequencer = sequencer_of(worm)
        for counts in ((), (0,), (1, 0), (-1, 2), (MAX_COUNT + 1,), (MAX_COUNT, 1)):
            with pytest.raises(UsageError, match=f"1 to {MAX_COUNT} positions"):
                await sequencer.give(Ask(counts, 1))
        assert await worm.spaces() == []
        assert (await sequencer.give(Ask((MAX_COUNT,), 1))).first == 0
        assert (await sequencer.give(Ask((MAX_COUNT - 1, 1), 7))).first == MAX_COUNT
        given = await sequencer.give(Ask((1,), 1))
        assert (given.first, given.before) == (2 * MAX_COUNT, 8)
        assert await sequencer.answer(Ping()) == Pong()

    virtually(work)


def test_it_answers_at_once_where_it_needs_nobody():
    async def work(worm):
        sequencer, plain = sequencer_of(worm), Ask((1, 2), 3)
        assert sequencer.give_now(plain) is None, "it holds nothing"
        await sequencer.start()
        watch = Watch(worm)
        given = sequencer.give_now(plain)
        assert (given.first, given.before, given.links) == (0, 0, ())
        assert sum(run.stop - run.start for run in given.ranges) == 2
        assert sequencer.give_now(Ask((1,), 3, ((0, {"s": 0}),))) is None
        assert sequencer.give_now(Ask((1,), 3, (), b"doubt")) is None
        left = sequencer._term.left
        assert sequencer.give_now(Ask((1,) * (left + 1), 3)) is None
        async with sequencer._turn:
            assert sequencer.give_now(plain) is None
        assert watch.counts() == {}
        assert len(sequencer.give_now(Ask((1,) * left, left)).ranges) == 1
        await asyncio.sleep(0.1)
        assert sequencer._term.left == SIZE, "the next segment was made ready meanwhile"
        assert (await sequencer.give(plain)).first == 3 + left
        await sequencer.close()
        assert sequencer.give_now(plain) is None

    virtually(work)


def test_who_names_no_stream_does_not_wait_for_the_table_of_streams():
    async def work(worm):
        sequencer = sequencer_of(worm)
        await sequencer.start()
        find, sequencer._trim_point.find = sequencer._trim_point.find, asyncio.Event().wait
        sequencer._table = sequencer._begin_to_rebuild()
        for _ in range(3):
            await sequencer.give(Ask((1,), 1, (), b"another"))
        waiting = asyncio.create_task(sequencer.give(Ask((1,), 1, ((0, {"s": 0}),))))
        await asyncio.sleep(9)
        assert not waiting.done()
        sequencer._trim_point.find = find
        sequencer._table.cancel()
        await asyncio.wait([waiting])
        assert isinstance(waiting.exception(), Deposed)
        assert (await sequencer.give(Ask((1,), 1, ((0, {"s": 0}),)))).links == ({"s": ()},)

    virtually(work)


def test_a_request_larger_than_a_segment_gets_slots_of_several():
    async def work(worm):
        sequencer = sequencer_of(worm, sole=True)
        given = await sequencer.give(Ask((1,) * (2 * SIZE + 3), 0))
        assert [(run.segment, run.start, run.stop) for run in given.ranges] == [
            (0, 0, SIZE),
            (1, 0, SIZE),
            (2, 0, 3),
        ]
        left = sequencer._term.left
        await sequencer.give(Ask((1,) * (left - 1), 0))
        await asyncio.sleep(0.1)
        assert await worm.space("log").tail() == 4, "and the next is made ready in time"

    virtually(work)


def test_who_was_deposed_takes_nothing_back_unless_it_may():
    async def work(worm):
        allowed = []

        async def may_renew():
            return allowed[-1]

        allowed.append(True)
        one, two = sequencer_of(worm, may_renew=may_renew), sequencer_of(worm)
        await one.give(Ask((1,), 1))
        fence = one._term._now.fence
        await two.give(Ask((1,), 1))
        allowed.append(False)
        assert one.give_now(Ask((1,), 1)) is not None, "it does not know yet"
        with pytest.raises(Deposed, match="another sequencer has taken over"):
            await one.give(Ask((1,), 1, (), fence))
        assert one._term is None
        with pytest.raises(Deposed):
            await one.give(Ask((1,) * 20, 1))
        with pytest.raises(Deposed):
            await one.start()
        with pytest.raises(Deposed):
            await one.answer(LastOf("s"))
        allowed.append(True)
        await one.give(Ask((1,), 1))
        assert await one._term.stands()

    virtually(work)


def test_one_refused_write_deposes_nobody_who_stands():
    async def work(worm):
        sequencer = sequencer_of(worm, sole=True)
        await sequencer.start()
        term, watch = sequencer._term, Watch(worm)
        for doubt in (term._now.fence, b"another"):
            await sequencer.give(Ask((1,), 1, (), doubt))
            assert sequencer._term is term
        assert watch.counts() == {"holds": 1}, "who was not asked to doubt itself does not"
        await sequencer_of(worm).start()
        await sequencer.give(Ask((1,), 1, (), term._now.fence))
        assert sequencer._term is not term

    virtually(work)


def test_who_cannot_go_on_lets_go_and_takes_over_anew():
    async def work(worm):
        one, two = sequencer_of(worm), sequencer_of(worm)
        await one.give(Ask((1,), 1, ((0, {"s": 0}),)))
        await two.start()
        with pytest.raises(Deposed):
            await one.give(Ask((1,) * 3 * SIZE, 1))
        assert (one._term, one._table) == (None, None)
        assert (await one.give(Ask((1,), 1))).first == 0, "nothing was written"

    virtually(work)


def test_who_only_asks_takes_the_right_from_nobody():
    async def work(worm):
        rng, book = random.Random(1), Book(worm)
        holder, asker = sequencer_of(worm), sequencer_of(worm)
        watch = Watch(worm)
        assert await asker.answer(NamesOf()) == Names({})
        for _ in range(12):
            await book.ask(holder, rng, write=1)
            await asyncio.sleep(0.1)  # the next segment is ready
            watch.clear()
            said = [await asker.answer(LastOf(name)) for name in "abcd"]
            assert {name for name, _ in watch.calls} <= {"read", "read_one"}
            assert said == [Last(book.latest(name), book.next) for name in "abcd"]
            wanted = {name: book.latest(name) for name in "abc" if book.last(name)}
            assert await asker.answer(NamesOf()) == Names(wanted)
        assert await holder._term.stands()

    virtually(work)


def test_who_was_asked_and_is_replaced_says_what_is_so_and_hands_out_nothing_more():
    async def work(worm):
        async def may_not():
            return bool(first)

        rng, book, first = random.Random(1), Book(worm), [True]
        old, strict = sequencer_of(worm), sequencer_of(worm, may_renew=may_not)
        await book.ask(strict, rng, write=1)
        assert await strict.answer(LastOf("a")) == Last(book.latest("a"), book.next)
        await old.start()
        first.clear()
        for question in (LastOf("a"), NamesOf()):
            with pytest.raises(Deposed):
                await strict.answer(question)
        assert strict.give_now(Ask((1,), 1)) is None
        new = sequencer_of(worm)
        await new.start()
        for _ in range(3):
            await book.ask(new, rng, write=1)
        assert await old.answer(LastOf("a")) == Last(book.latest("a"), book.next)
        assert old.give_now(Ask((1,), 1)) is None, "it knows now"
        assert await new._term.stands()

    virtually(work)


def test_who_asks_again_reads_what_is_new_and_what_is_far_is_rebuilt():
    async def work(worm):
        rng, book, start = random.Random(2), Book(worm), Start()
        holder, asker = sequencer_of(worm), sequencer_of(worm, start)
        await book.ask(holder, rng, write=1)
        await asker.answer(NamesOf())
        table, upto = asker._read
        await book.ask(holder, rng, write=1)
        await asker.answer(NamesOf())
        assert asker._read[0] is table
        assert asker._read[1] == max(book.written) + 1 > upto
        for _ in range(8):
            await book.ask(holder, rng, write=1)
        said = await asker.answer(LastOf("a"))
        assert asker._read[0] is not table
        assert said == Last(book.latest("a"), book.next)
        end = max(book.written) + 1
        first = next(batch.first for slot, batch in book.batches.items() if slot >= SIZE)
        start.true = Place(first, SIZE)
        await worm.space("log").trim_prefix(1)
        assert await asker.answer(LastOf("a")) == Last(book.latest("a"), book.next)
        fresh = sequencer_of(worm, start)
        assert (await fresh.answer(LastOf("a"))).next == book.next
        assert fresh._read[1] == end
        start.true = Place(book.next, end)
        gone = sequencer_of(worm, start)
        assert (await gone.answer(LastOf("a"))).next == book.next

    virtually(work)


def test_a_seal_has_the_streams_of_all_slots_below_where_it_was_made():
    async def work(worm):
        rng, book = random.Random(4), Book(worm)
        sequencer = sequencer_of(worm, sole=True)
        for _ in range(12):
            await book.ask(sequencer, rng)
        segmented_log = sequencer._segmented_log
        for number in range(await segmented_log.open_segment()):
            seal = read_seal(await segmented_log.seal(number), number, (number + 1) * SIZE)
            assert seal.upto <= (number + 1) * SIZE
            below = [slot for slot in book.batches if slot < seal.upto]
            for name, latest in seal.streams.items():
                mine = [slot for slot in below if name in book.batches[slot].links]
                assert latest.slots[0] >= mine[-1]
            assert set(seal.streams) >= {n for slot in below for n in book.batches[slot].links}
        assert number == 2
        with turned(log_table_bytes=64):
            rebuilt = sequencer_of(worm)
            said = await rebuilt.answer(LastOf("a"))
            assert (
                said.latest.slots[0] == [s for s, p in book.written.items() if "a" in p.links][-1]
            )

    virtually(work)


def test_a_stream_that_the_table_has_left_out_is_looked_up_before_it_goes_on():
    async def work(worm):
        with turned(log_streams=8, log_table_bytes=64):
            sequencer = sequencer_of(worm, sole=True)
            book, rng = Book(worm), random.Random(3)
            wide = [f"stream {n}" for n in range(30)]
            for _ in range(25):
                await book.ask(sequencer, rng, names=wide, write=1)
            table = await sequencer._streams()
            assert table.left_out
            assert len(table.all()) <= 8
            for name in wide[:10]:
                assert (await sequencer.answer(LastOf(name))).latest == book.latest(name)
            successor = sequencer_of(worm)
            for _ in range(10):
                await book.ask(successor, rng, names=wide, write=1)

    virtually(work)


def test_a_table_that_could_not_be_rebuilt_is_when_it_is_needed(caplog):
    caplog.set_level("INFO")

    async def work(worm):
        old = sequencer_of(worm, sole=True)
        await Book(worm).ask(old, random.Random(1), write=1)
        start = Start()
        fails = [Unavailable("away")]
        find = start.find

        async def failing():
            if fails:
                raise fails.pop()
            return await find()

        start.find = failing
        sequencer = sequencer_of(worm, start, sole=True)
        await sequencer.start()
        await asyncio.sleep(0.1)
        assert caplog.text.count("the table of streams is not there yet: away") == 1
        assert await sequencer.answer(NamesOf()) == await old.answer(NamesOf())
        assert caplog.text.count("is not there yet") == 1
        sequencer._term = None
        with pytest.raises(Deposed):
            await sequencer._seal()
        await sequencer._lose()
        with pytest.raises(Deposed):
            await sequencer._streams()

    virtually(work)


def test_a_table_is_rebuilt_from_what_is_left_when_it_is_trimmed_meanwhile():
    async def work(worm):
        rng, book, start = random.Random(5), Book(worm), Start()
        old = sequencer_of(worm, sole=True)
        for _ in range(8):
            await book.ask(old, rng, write=1)
        first = next(batch.first for slot, batch in book.batches.items() if slot >= SIZE)
        start.true = Place(first, SIZE)
        await worm.space("log").trim_prefix(1)
        sequencer = sequencer_of(worm, start)
        assert (await sequencer.answer(LastOf("a"))).next == book.next
        await sequencer.start()
        assert set((await sequencer._streams()).all()) == set("abc")

        async def gone(*given, **named):
            raise Trimmed("gone")

        reader = sequencer._reader
        real, reader.segmented_log.read = reader.segmented_log.read, gone
        sequencer._read = None
        asking = asyncio.create_task(sequencer._read_on())
        await asyncio.sleep(0)
        reader.segmented_log.read = real
        assert (await asking)[2] == book.next

    virtually(work)


def test_closing_ends_what_is_under_way():
    async def work(worm):
        sequencer = sequencer_of(worm, sole=True)
        await sequencer.give(Ask((1,) * (SIZE - 1), 1))
        sequencer._trim_point.find = asyncio.Event().wait
        sequencer._table = sequencer._begin_to_rebuild()
        table = sequencer._table
        waiting = asyncio.create_task(sequencer._streams())
        await asyncio.sleep(0)
        await sequencer.close()
        assert sequencer._term is None
        await asyncio.sleep(9)
        assert await worm.space("log").tail() == 1, "the next segment is not made any more"
        await asyncio.wait([waiting])
        assert table.cancelled()
        _note_failure(table)
        assert isinstance(waiting.exception(), Deposed)
        assert sequencer.give_now(Ask((1,), 1)) is None

    virtually(work)
