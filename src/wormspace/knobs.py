"""Every size at which something rolls over, fills, pages, batches, expires or splits.

One settings object for the whole program, so that a simulated run can turn all of them down at
once and reach in seconds what a deployment reaches in its third year.  (FoundationDB's simulation
calls them knobs, and we do too.)  A server's limits on what clients may send are not knobs: they
are settings of the cluster file.

Code reads a knob where it needs it, `KNOBS.log_cell_size`, and never copies one into a constant, a
default argument or a class attribute: that copy would not be turned.  What two processes must
agree on is not a knob alone: it is also stored with the data that depends on it.

Fields are grouped by package, bottom to top.  Each name begins with its package and, where it is no
count, ends with its unit.  Each has the value that ships, and the least at which everything must
still work.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def knob(shipped: int, least: int) -> Any:
    """A field of `Knobs`: its shipped value, and the smallest that a simulated run may draw."""
    return dataclasses.field(default=shipped, metadata={"least": least})


@dataclasses.dataclass(slots=True)
class Knobs:
    """The settings; `KNOBS` is the one in force."""

    store_checkpoint_bytes: int = knob(16 << 20, least=1)
    """A journal of this size is worth a checkpoint: fewer cost less, larger ones hold up more."""

    store_journal_step_bytes: int = knob(1 << 20, least=4096)
    """The journal's files grow by this much, so that hardly any commit changes a file's size."""

    store_map_bytes: int = knob(64 << 20, least=1 << 18)
    """How much of the tables' file is mapped at first; the map doubles when it must."""

    store_large_bytes: int = knob(2048, least=1)
    """A value of about half a page has pages of its own."""

    store_large_weight: int = knob(8, least=1)
    """Records of large values count so many times towards a checkpoint (docs/performance.md)."""

    store_spare_bytes: int = knob(64 << 10, least=1)
    """What growing batches leave in the journal, so that trims find room on a full disk."""

    store_probe_bytes: int = knob(1 << 20, least=1)
    """A full disk that takes so much has room again."""

    store_check_leaves: int = knob(32 << 10, least=0)
    """Pages of rows whose structure is checked when a store is opened: 128 MiB, half a second."""

    store_scrub_rows: int = knob(1000, least=1)
    """Rows that one step of the scrub verifies."""

    store_inline_bytes: int = knob(64 << 10, least=0)
    """Larger records are always written by the thread."""

    store_inline_after: int = knob(32, least=1)
    """So many writes in a row must have been fast before one is made in the loop."""

    registers_part: int = knob(4096, least=1)
    """Registers whose reports a captor keeps together: a page is merged into the parts it meets."""

    registers_pages_at_once: int = knob(4, least=1)
    """Pages of one long read that are asked for at the same time, of several servers."""

    registers_memory: int = knob(4096, least=2)
    """Arrays and ballots of which a client remembers what it wrote, register by register."""

    registers_groups: int = knob(1024, least=1)
    """Spaces, and proposers of tokens, for each of which a client knows what it has forgotten."""

    registers_batch: int = knob(512, least=1)
    """Registers in one write message, at most."""

    registers_batch_bytes: int = knob(1 << 20, least=1)
    """A write message gets no more registers once it has so many bytes."""

    registers_small: int = knob(128, least=1)
    """Registers that are worth a read message of their own."""

    registers_reads_in_flight: int = knob(4, least=1)
    """Into so many messages single reads are spread, unless these would be small."""

    registers_trims_at_once: int = knob(256, least=1)
    """Segments whose trim is decided at the same time."""

    registers_queue_events: int = knob(100_000, least=2)
    """Events that the consumer of a listener may fall behind; then it reads what it missed."""

    registers_queue_bytes: int = knob(64 << 20, least=1)
    """Bytes of values in these events."""

    registers_undecided_bytes: int = knob(64 << 20, least=4096)
    """What a listener keeps of registers that are short of a majority; then it begins anew."""

    registers_reading_late: int = knob(1024, least=1)
    """Such registers that are read at the same time."""

    registers_read_spans: int = knob(4096, least=1)
    """Spans of registers in one read; the servers answer no more of them in one report."""

    registers_spans: int = knob(512, least=1)
    """Spans of registers in one question for what is not known yet."""

    space_handles_kept: int = knob(4096, least=1)
    """Handles on spaces that a client keeps; the longest unused goes first."""

    space_catch_up: int = knob(16, least=1)
    """Segments of which a listener that is behind reads at the same time."""

    server_page_bytes: int = knob(1 << 20, least=1)
    """Bytes of a report's rows; it is cut off after the row that brings it to this size."""

    server_page_spans: int = knob(4096, least=1)
    """Spans of a read that one report answers, and spans of tombstones in one answer."""

    server_page_promises: int = knob(4096, least=2)
    """Promises in one report."""

    server_page_names: int = knob(1000, least=1)
    """Names of spaces in one answer."""

    server_lookup: int = knob(32, least=1)
    """Single registers that are looked up at once."""

    server_few_ranges: int = knob(4, least=1)
    """So many promises or marks are gone through for each register; of more, one is looked up."""

    server_batch_work: int = knob(4096, least=1)
    """Registers in one batch: a batch is closed by the request that reaches it."""

    server_batch_rows_bytes: int = knob(4 << 20, least=1)
    """Bytes of rows in all promises of one batch; further ones come without."""

    server_supersede: int = knob(2000, least=1)
    """Promises or tombstones that a request replaces at once; of more, a part in each turn."""

    server_batch_supersede: int = knob(2000, least=64)
    """And those of one batch together: the request that reaches it ends the batch."""

    server_turn_requests: int = knob(1024, least=1)
    """Requests of one connection, and events, before others have their turn."""

    server_marks_pending: int = knob(10_000, least=1)
    """Decided marks that wait for a batch; above it they are saved, or forgotten."""

    server_marks_saved: int = knob(250, least=1)
    """Decided marks that are saved in one batch."""

    server_sweep_keys: int = knob(2000, least=1)
    """Keys of trimmed segments that are deleted in one batch."""

    server_sweep_bytes: int = knob(4 << 20, least=1)
    """Bytes of trimmed values that are read to be deleted in one batch."""

    server_flush_bytes: int = knob(256 << 10, least=1)
    """Answers to one client that are sent before the turn of the loop is over."""

    log_segment_size: int = knob(1024, least=4)
    """Registers per segment of a log that is made without a word about it."""

    log_cell_size: int = knob(256, least=2)
    """Registers per segment of a durable mark, in logs that are made from now on."""

    log_cell_page: int = knob(64, least=1)
    """Registers read at a time in search of a mark's newest value."""

    log_segment_handles: int = knob(64, least=1)
    """Segments of a log whose handles are kept."""

    log_probes: int = knob(16, least=2)
    """Registers that one step of the search for a log's end looks at."""

    log_near: int = knob(64, least=1)
    """The search for a log's end stops when it is this close, and reads the rest."""

    log_ask_entries: int = knob(16_384, least=1)
    """Entries of different appends for which positions are asked together."""

    log_batch_bytes: int = knob(32 * 1024, least=1)
    """A batch has no more bytes, unless it has one entry only: readers of one entry get all."""

    log_batch_entries: int = knob(1024, least=1)
    """A batch has no more entries."""

    log_links: int = knob(4, least=1)
    """Earlier batches of each of its streams that a batch names (Tango's entries have four too)."""

    log_table_bytes: int = knob(256 * 1024, least=64)
    """The largest table of streams in a seal."""

    log_streams: int = knob(32_768, least=8)
    """Streams that a sequencer remembers; those appended to longest ago are read anew."""

    log_cursors: int = knob(256, least=1)
    """Cursors that a log keeps at hand; beyond, only those that somebody holds."""

    log_stream_page: int = knob(512, least=1)
    """Slots read at a time in search of a stream's entries."""

    log_remembered_batches: int = knob(4096, least=1)
    """Batches whose place a reader remembers; when there are more, it forgets every second one."""

    log_look_back: int = knob(64, least=1)
    """Slots read at a time, at most, in search of the last batch below a slot."""

    log_page_slots: int = knob(512, least=1)
    """Slots read at a time by one who reads on, at most."""

    log_page_bytes: int = knob(1 << 20, least=1)
    """Bytes read at a time by one who reads on, about."""

    log_first_slots: int = knob(64, least=1)
    """Slots read before it is known how large they are."""

    log_behind_slots: int = knob(256, least=1)
    """With more slots than this arrived and not consumed, a subscriber reads, and listens later."""

    smr_chains_kept: int = knob(8192, least=8)
    """For so many registers back a leader's claim can be compared; its pipeline is far shorter."""

    smr_events_kept: int = knob(10_000, least=4)
    """So far back can a listener of a replicated object go on, on any replica."""

    smr_audits_kept: int = knob(64, least=2)
    """Hashes of the state that wait for the proposer's, and the other way round."""

    smr_registers_in_flight: int = knob(64, least=1)
    """Registers that one replica writes at once where turns rotate."""

    smr_read_ahead: int = knob(32, least=1)
    """Registers that a replica without a leader reads at once, to see whether the next is empty."""

    smr_packets_under_way: int = knob(2, least=1)
    """Packets of one client at once: while one is decided, another is made, and calls gather."""

    smr_packet_calls: int = knob(1024, least=1)
    """Calls that travel in one packet, at most."""

    smr_packet_bytes: int = knob(256 * 1024, least=1)
    """A packet of several calls is no larger: while one is being decided, the next is made."""

    smr_listen_events: int = knob(1000, least=1)
    """Events in one page for who follows a replicated object, at most."""

    smr_listen_bytes: int = knob(1 << 20, least=1)
    """Bytes in one page of events that travels, about: one event at least."""

    smr_piece_bytes: int = knob(64 * 1024, least=64)
    """A piece of a snapshot has about this size, unless one row alone is larger."""

    smr_piece_rows: int = knob(256, least=2)
    """Rows that are encoded at a time for a snapshot."""

    smr_part_bytes: int = knob(1 << 20, least=64)
    """A larger piece of a snapshot travels, and is kept, in parts."""

    smr_pieces_per_write: int = knob(16, least=1)
    """Pieces of a snapshot that go to the disk at a time."""

    smr_session_s: int = knob(3600, least=60)
    """A client is forgotten that was silent for so long, in command time, *and* in batches.

    Part of the replicated state: another value in a deployment needs a new format of registers.
    """

    smr_session_batches: int = knob(4096, least=8)
    """The batches that go with `smr_session_s`, and like it part of the replicated state."""

    tx_segment_size: int = knob(1024, least=2)
    """Registers per vote segment of a transaction space that is made now; stored with it."""

    tx_segments_held: int = knob(1024, least=1)
    """Vote segments that one process keeps captured; what it took first is let go first."""

    tx_spaces_followed: int = knob(256, least=1)
    """Vote spaces that one process listens to; the one it needed longest ago is let go."""

    tx_early_votes: int = knob(4096, least=1)
    """Transactions of which votes are remembered although nobody here has asked about them yet."""

    tx_resolved_at_once: int = knob(32, least=1)
    """Prepared branches that one recovery finishes at a time."""

    tx_pool: int = knob(32, least=1)
    """Connections to one database in which transactions work, unless its manager says otherwise."""

    cli_status_registers: int = knob(16_384, least=1)
    """Registers of a segment that `status` asks for, and shows, at a time."""


KNOBS = Knobs()
"""The settings in force.  Only `turned` changes them."""


@contextmanager
def turned(**values: int) -> Iterator[Knobs]:
    """Run the block with other values of the knobs named.

    Raises:
        TypeError: there is no such knob.
    """
    names = {field.name for field in dataclasses.fields(Knobs)}
    if unknown := values.keys() - names:
        raise TypeError(f"there is no knob {', '.join(sorted(unknown))}")
    before = {name: getattr(KNOBS, name) for name in values}
    for name, value in values.items():
        setattr(KNOBS, name, value)
    try:
        yield KNOBS
    finally:
        for name, value in before.items():
            setattr(KNOBS, name, value)


def least() -> dict[str, int]:
    """Every knob at its least: what ages a deployment by years in seconds."""
    return {field.name: field.metadata["least"] for field in dataclasses.fields(Knobs)}


def drawn(rng: random.Random) -> dict[str, int]:
    """A value for every knob, from its least to what ships, small ones as likely as large ones.

    Each has a generator of its own, so that a knob that is new changes no other one's draw.
    """
    seed = rng.getrandbits(64)
    return {
        field.name: _draw(random.Random(f"{seed}/{field.name}"), field)
        for field in dataclasses.fields(Knobs)
    }


def differing() -> dict[str, int]:
    """The knobs in force that are not as shipped."""
    shipped = Knobs()
    values = {field.name: getattr(KNOBS, field.name) for field in dataclasses.fields(Knobs)}
    return {name: value for name, value in values.items() if value != getattr(shipped, name)}


def _draw(rng: random.Random, field: dataclasses.Field[Any]) -> int:
    lo: int = field.metadata["least"]
    hi: int = getattr(Knobs(), field.name)
    if rng.random() < 0.25:
        return hi
    return min(hi, max(lo, round(math.expm1(rng.uniform(math.log1p(lo), math.log1p(hi))))))
