"""The tests find what they are for: each rule of the log, broken, is caught."""

import pytest
from test_log_faults import usurped
from test_log_minority import read_after_a_takeover

import wormspace
from wormspace.log.reading import Reader
from wormspace.log.sequencer import Sequencer
from wormspace.log.streams import StreamTable
from wormspace.log.tape import Tape
from wormspace.log.tenure import Tenure
from wormspace.sim import Unhandled

SEEDS = 20


def never_settles(monkeypatch):
    async def settle(tape, slot, mine):
        return False

    monkeypatch.setattr(Tape, "settle", settle)


def takes_what_it_lost_for_its_own(monkeypatch):
    async def settle(tape, slot, mine):
        return True

    monkeypatch.setattr(Tape, "settle", settle)


def ignores_a_failed_seam(monkeypatch):
    close = Tenure._close

    async def ignoring(tenure, stretch):
        try:
            await close(tenure, stretch)
        except wormspace.RaceLost:
            pass

    monkeypatch.setattr(Tenure, "_close", ignoring)


def fills_nothing_when_it_takes_over(monkeypatch):
    last_pack = Reader.last_pack

    async def look_only(reader, below, *, fill=False):
        return await last_pack(reader, below)

    async def nothing(tenure, segment, offsets, token):
        pass

    async def no_streams(sequencer):
        return StreamTable()

    monkeypatch.setattr(Reader, "last_pack", look_only)
    monkeypatch.setattr(Tenure, "_fill", nothing)
    monkeypatch.setattr(Sequencer, "_rebuild", no_streams)


def counts_positions_by_slots(monkeypatch):
    go_on_at = Sequencer._go_on_at

    async def at_the_slot(sequencer, slot):
        await go_on_at(sequencer, slot)
        sequencer._next = slot

    monkeypatch.setattr(Sequencer, "_go_on_at", at_the_slot)


def goes_on_among_the_slots_of_another(monkeypatch):
    init = Tenure.__init__

    def mixed(tenure, tape, **options):
        init(tenure, tape, **{**options, "mixed": True})

    monkeypatch.setattr(Tenure, "__init__", mixed)


def forgets_streams_when_it_takes_over(monkeypatch):
    rebuild = Sequencer._rebuild

    async def from_the_seam_alone(sequencer):
        sequencer._began -= sequencer._tape.size
        return await rebuild(sequencer)

    monkeypatch.setattr(Sequencer, "_rebuild", from_the_seam_alone)


FOUND_BY_CAMPAIGNS = (
    never_settles,
    takes_what_it_lost_for_its_own,
    ignores_a_failed_seam,
    counts_positions_by_slots,
    forgets_streams_when_it_takes_over,
)
FOUND_STEP_BY_STEP = (fills_nothing_when_it_takes_over, goes_on_among_the_slots_of_another)


@pytest.mark.parametrize("break_a_rule", FOUND_BY_CAMPAIGNS, ids=lambda mutant: mutant.__name__)
def test_a_campaign_catches_one_that(break_a_rule, monkeypatch):
    break_a_rule(monkeypatch)
    for seed in range(SEEDS):
        try:
            usurped(seed).run()
        except Exception:  # noqa: BLE001 - unbroken, the campaigns pass: whatever it is, it is found
            return
    pytest.fail(f"none of {SEEDS} campaigns found it")


@pytest.mark.parametrize("break_a_rule", FOUND_STEP_BY_STEP, ids=lambda mutant: mutant.__name__)
def test_a_half_written_pack_catches_one_that(break_a_rule, monkeypatch):
    break_a_rule(monkeypatch)
    with pytest.raises((AssertionError, Unhandled)):
        read_after_a_takeover()
