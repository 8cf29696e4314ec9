"""The tests find what they are for: each rule of the log, broken, is caught."""

import pytest
from test_log_aging import live, log_knobs
from test_log_cancelled import CALLS, serves_on, setting
from test_log_faults import Campaign, usurped
from test_log_minority import append_while_another_takes_over, read_after_a_takeover
from tests.mutating import Mutant

import wormspace
from cancelling import cancel_everywhere
from wormspace.knobs import least
from wormspace.log.reading import Reader
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.sequencer import Sequencer
from wormspace.log.spaces import TRIM
from wormspace.log.streams import StreamTable
from wormspace.log.term import Term
from wormspace.log.trim_point import TrimPoint
from wormspace.log.trimming import Trimmer
from wormspace.sim import Unhandled

SEEDS = 20


def never_settles(monkeypatch):
    async def settle(segmented_log, slot, mine):
        return False

    monkeypatch.setattr(SegmentedLog, "settle", settle)


def takes_what_it_lost_for_its_own(monkeypatch):
    async def settle(segmented_log, slot, mine):
        return True

    monkeypatch.setattr(SegmentedLog, "settle", settle)


def ignores_a_failed_seal(monkeypatch):
    close = Term._close

    async def ignoring(term, unreserved):
        try:
            await close(term, unreserved)
        except wormspace.RaceLost:
            pass

    monkeypatch.setattr(Term, "_close", ignoring)


def fills_nothing_when_it_takes_over(monkeypatch):
    last_batch = Reader.last_batch

    async def look_only(reader, below, *, fill=False):
        return await last_batch(reader, below)

    async def nothing(term, segment, offsets, token):
        pass

    async def no_streams(sequencer):
        return StreamTable()

    monkeypatch.setattr(Reader, "last_batch", look_only)
    monkeypatch.setattr(Term, "_fill", nothing)
    monkeypatch.setattr(Sequencer, "_rebuild", no_streams)


def counts_positions_by_slots(monkeypatch):
    go_on_at = Sequencer._go_on_at

    async def at_the_slot(sequencer, slot):
        await go_on_at(sequencer, slot)
        sequencer._next = slot

    monkeypatch.setattr(Sequencer, "_go_on_at", at_the_slot)


def goes_on_among_the_slots_of_another(monkeypatch):
    init = Term.__init__

    def mixed(term, segmented_log, **options):
        init(term, segmented_log, **{**options, "mixed": True})

    monkeypatch.setattr(Term, "__init__", mixed)


def forgets_streams_when_it_takes_over(monkeypatch):
    rebuild = Sequencer._rebuild

    async def from_the_seal_alone(sequencer):
        sequencer._began -= sequencer._segmented_log.size
        return await rebuild(sequencer)

    monkeypatch.setattr(Sequencer, "_rebuild", from_the_seal_alone)


def trims_segments_before_the_trim_point_is_set(monkeypatch):
    move = TrimPoint.move

    async def late(trim_point, place):
        if trim_point._cell._segmented_log.part == TRIM and place.slot:
            segmented_log = trimmer_of[trim_point]
            whole = min(place.slot // segmented_log.size, await segmented_log.open_segment())
            if whole > 0:
                await segmented_log.space.trim_prefix(whole)
        await move(trim_point, place)

    trimmer_of = {}
    init = Trimmer.__init__

    def noting(trimmer, reader, trim_point):
        init(trimmer, reader, trim_point)
        trimmer_of[trim_point] = reader.segmented_log

    monkeypatch.setattr(Trimmer, "__init__", noting)
    monkeypatch.setattr(TrimPoint, "move", late)


FOUND_BY_CANCELLING = {trims_segments_before_the_trim_point_is_set: "trim"}

FOUND_BY_SMALL_CAMPAIGNS = (
    takes_what_it_lost_for_its_own,
    ignores_a_failed_seal,
    counts_positions_by_slots,
    forgets_streams_when_it_takes_over,
)
FOUND_STEP_BY_STEP = {
    fills_nothing_when_it_takes_over: read_after_a_takeover,
    goes_on_among_the_slots_of_another: read_after_a_takeover,
    never_settles: append_while_another_takes_over,
}


def small(seed):
    """Calls that cannot succeed any more are given up soon: they would only repeat themselves."""
    return usurped(seed, knobs={}, clients=2, appenders=2, entries=3, timeout_s=1.0)


def test_a_campaign_in_which_nothing_is_broken_passes():
    small(0).run()


@pytest.mark.parametrize(
    "break_a_rule", FOUND_BY_SMALL_CAMPAIGNS, ids=lambda mutant: mutant.__name__
)
def test_a_campaign_catches_one_that(break_a_rule, monkeypatch):
    break_a_rule(monkeypatch)
    for seed in range(SEEDS):
        try:
            small(seed).run()
        except Exception:  # noqa: BLE001 - unbroken, the campaigns pass: whatever it is, it is found
            return
    pytest.fail(f"none of {SEEDS} campaigns found it")


@pytest.mark.parametrize("break_a_rule", FOUND_STEP_BY_STEP, ids=lambda mutant: mutant.__name__)
def test_a_half_written_batch_catches_one_that(break_a_rule, monkeypatch):
    break_a_rule(monkeypatch)
    with pytest.raises((AssertionError, Unhandled)):
        FOUND_STEP_BY_STEP[break_a_rule]()


@pytest.mark.parametrize("break_a_rule", FOUND_BY_CANCELLING, ids=lambda mutant: mutant.__name__)
def test_a_cancelled_call_catches_one_that(break_a_rule, monkeypatch):
    break_a_rule(monkeypatch)
    act, adds = CALLS[FOUND_BY_CANCELLING[break_a_rule]]
    with pytest.raises((Exception, Unhandled)):
        cancel_everywhere(setting(worn=True), act, lambda it: serves_on(it, may_add=adds))


TRIMMED, TRIMMED_SMALL, USURPED = "trimmed", "trimmed, small", "usurped"
WORLDS = {
    TRIMMED_SMALL: lambda seed: Campaign(
        seed, clients=2, appenders=2, entries=6, trim_every_s=0.4, options={"segment_size": 4}
    ),
    TRIMMED: lambda seed: Campaign(seed, trim_every_s=0.3, options={"segment_size": 8}),
    USURPED: usurped,
}

MISTAKES = {
    "segments are trimmed before the trim point is set": (
        TRIMMED_SMALL,
        Mutant(
            "wormspace.log.trimming:Trimmer.below",
            "await trim_point.move(Place(position, slot))",
            "whole = min(slot // segmented_log.size, await segmented_log.open_segment())\n"
            "if whole > 0:\n"
            "    await segmented_log.space.trim_prefix(whole)\n"
            "await trim_point.move(Place(position, slot))",
            seed=22,
        ),
    ),
    "one segment too many is trimmed": (
        TRIMMED,
        Mutant(
            "wormspace.log.trimming:Trimmer.below",
            "trim_point.at.slot // segmented_log.size,",
            "trim_point.at.slot // segmented_log.size + 1,",
        ),
    ),
    "a mark is read where it was a page ago": (
        TRIMMED,
        Mutant(
            "wormspace.log.durable_cell:DurableCell._newest",
            "for slot in range(end - 1, start - 1, -1):",
            "for slot in range(start, end):",
        ),
    ),
    "a successor begins one position too low": (
        USURPED,
        Mutant(
            "wormspace.log.sequencer:Sequencer._go_on_at",
            "last[1].end if last else 0)",
            "last[1].end - 1 if last else 0)",
        ),
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_campaign_shows_that(mistake):
    world, mutant = MISTAKES[mistake]
    with mutant.applied():
        for seed in mutant.seeds(SEEDS):
            try:
                WORLDS[world](seed).run()
            except Exception as e:  # noqa: BLE001 - unbroken, they pass: whatever it is, it is found
                print(f"seed {seed}: {str(e)[:100]!r}")
                return
    pytest.fail(f"none of {SEEDS} campaigns found it")


SHOWN_BY_LONG_LIVES = {
    "a deposed sequencer answers for a stream by itself": Mutant(
        "wormspace.log.sequencer:Sequencer._certain",
        "if term is not None and not await term.stands():",
        "if False:",
    ),
}


@pytest.mark.parametrize("seed", range(20, 22))
@pytest.mark.parametrize("mistake", SHOWN_BY_LONG_LIVES)
async def test_a_long_life_of_handles_that_depose_each_other_shows_that(mistake, seed):
    """The very lives that test_log_aging.py lives without the mistake."""
    with SHOWN_BY_LONG_LIVES[mistake].applied(), pytest.raises(AssertionError):
        await live(seed, 300, rivals=True, **log_knobs(least()))
