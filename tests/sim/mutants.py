"""Mistakes in the shipped registers, servers and spaces that random runs of the system must find.

They sit where limits are reached and things happen at an unlucky moment: the ends of pages, memory
that is full, a majority counted over the wrong set, listeners that were cut off.  Nothing in a run
is made for one of them: what is run is the campaign of every seed.
"""

from tests.mutating import Mutant

CAPTURING = "wormspace.paxos.prepare"
OPERATIONS = "wormspace.registers.paxos.operations"
LISTENING = "wormspace.registers.paxos.listening:PartitionListener"
REGISTERS = "wormspace.registers.paxos.client:PaxosRegisters"
ACCEPTORS = "wormspace.server.acceptors"
FOLLOWER = "wormspace.space.follow:Follower"

MUTANTS = {
    "a promise counts though pages of its report are missing": Mutant(
        f"{CAPTURING}:on_promise", "if p.next != COMPLETE:", "if False:", seed=1
    ),
    "a report counts though further pages are missing": Mutant(
        f"{CAPTURING}:on_report", "if r.next != COMPLETE:", "if False:", seed=3
    ),
    "a page is asked for from one too far": Mutant(
        f"{CAPTURING}:on_promise",
        "[(p.next, c.stop)]",
        "[(min(p.next + 1, c.stop - 1), c.stop)]",
        seed=3,
    ),
    "a read goes on one too far after a page": Mutant(
        "wormspace.registers.spans:after", "(end, rest[0][1])", "(end + 1, rest[0][1])"
    ),
    "a read that was cut off counts as whole": Mutant(
        f"{OPERATIONS}:ReadOperation._on_report",
        "if report.next != COMPLETE and report.next < self.end:",
        "if False:",
        seed=3,
    ),
    "a second value for what is settled is taken for the first": Mutant(
        f"{REGISTERS}._compare_first", "elif held != value:", "elif False:"
    ),
    "a write is done though some server refused it and no majority has it": Mutant(
        f"{OPERATIONS}:WriteOperation.on_reply",
        "for tally in (*lost, *still_open)",
        "for tally in lost",
    ),
    "what a reader could not help it leaves out": Mutant(
        f"{REGISTERS}._help", "values.update(captured.written)", "pass", seed=1
    ),
    "after a gap a listener reads the newest segment only": Mutant(
        f"{FOLLOWER}._read_trims",
        "self._behind = self._done.below",
        "self._behind = max(self._done.below, self._tail - 1)",
        seed=6,
    ),
    "what is coming is left out of a page though it is not": Mutant(
        f"{FOLLOWER}._absorb",
        "if not self._source.is_coming(number, offset):",
        "if offset != look.end - 1:",
        seed=6,
    ),
    "a write that was given up is not in doubt": Mutant(
        "wormspace.registers.paxos.issued:Issued.give_up",
        "self.doubt[offset] = _digest(value)",
        "pass",
    ),
    "what is settled is forgotten": Mutant(
        "wormspace.registers.paxos.issued:Issued.decide",
        "self.decided.add_span(lo, hi)",
        "pass",
        seed=1,
    ),
    "of two callers of one write one is never told": Mutant(
        f"{OPERATIONS}:WriteOperation._decide",
        "for offset in self.joined.keys() & decided.keys():",
        "for offset in ():",
        seed=1,
    ),
    "a page of a report ends one too far": Mutant(
        f"{ACCEPTORS}:_page", "return rows, offset", "return rows, offset + 1", seed=1
    ),
    "many spans of a read are cut off in silence": Mutant(
        f"{ACCEPTORS}:read",
        "cut = spans[KNOBS.server_page_spans][0]",
        "cut = COMPLETE",
    ),
    "a tombstone ends one too early": Mutant(
        "wormspace.server.tables:is_trimmed",
        'segment < int.from_bytes(found[1][:8], "big")',
        'segment < int.from_bytes(found[1][:8], "big") - 1',
    ),
    "a tombstone ends one too late": Mutant(
        "wormspace.server.tables:is_trimmed",
        'segment < int.from_bytes(found[1][:8], "big")',
        'segment <= int.from_bytes(found[1][:8], "big")',
    ),
    "promises that a slice lost stay in the store": Mutant(
        "wormspace.server.tables:store_slice", "if r not in stay:", "if False:"
    ),
    "a segment counts as allocated though its metadata is empty still": Mutant(
        "wormspace.space.space:Space._find_tail", "return held is not None", "return False"
    ),
}


OF_THE_FORGETFUL = {
    "the newest forgotten ballot is not known as forgotten": Mutant(
        "wormspace.registers.paxos.memory:_Forgotten.has", "rank <= highest", "rank < highest"
    ),
}

OF_THE_SCATTERED = {
    "a read that meets values under two ballots helps one of them": Mutant(
        f"{REGISTERS}._conclude",
        "for ballot, rows in undecided.items():",
        "for ballot, rows in list(undecided.items())[:1]:",
        seed=13,
    ),
}

OF_THE_QUIET = {
    "a server tells of a batch only who listened when it began": Mutant(
        "wormspace.server.node:Node._handle",
        "if fresh is not None:",
        "if fresh is not None and m.space in self._listeners._by_space:",
        seed=1,
    ),
}

OF_THE_CROWDED = {
    "a listener that was too slow is given up without a word": Mutant(
        "wormspace.server.listeners:Listeners.publish",
        "x.port.answer(x.id, Lagging())",
        "pass",
    ),
    "a listener that was too slow does not subscribe again": Mutant(
        f"{LISTENING}.on_message",
        "elif isinstance(message, Lagging):\n    self.on_down(server)\n    self.on_up(server)",
        "elif isinstance(message, Lagging):\n    pass",
    ),
}

OF_THE_ASKED = {
    "of many promises the first is looked at": Mutant(
        f"{ACCEPTORS}:write",
        "if narrow:\n    promises = held =",
        "if False:\n    promises = held =",
    ),
    "a capture stands though a server of the majority has promised more": Mutant(
        "wormspace.registers.paxos.capture_check:CaptureCheckOperation.on_reply",
        "self.lost |= 1 << server",
        "self.standing |= (1 << server) * (self.standing > 0)",
        seed=2,
    ),
}

OF_THE_CONTENDED = {
    "a listener counts servers and not their ballots": Mutant(
        f"{LISTENING}._on_accepted",
        "if votes.value is None and is_quorum(proposal.voters, size):",
        "if votes.value is None and is_quorum(votes.voters, size):",
        seed=5,
    ),
}

JOURNAL = "wormspace.store.journal"
ENGINE = "wormspace.store.lmdb_engine:LmdbEngine"

ON_REAL_STORES = {
    "recovery acts on records that it has not made durable": Mutant(
        "wormspace.store.journal_file:JournalFile.__init__",
        "files.sync_data(self.fd)",
        "pass",
        seed=9,
    ),
    "recovery acts on a checkpoint that it has not made durable": Mutant(
        "wormspace.store.roots:Roots.__init__", "files.sync(self._fd)", "pass", seed=10
    ),
    "a record is not waited for": Mutant(
        f"{JOURNAL}:Journal._write", "sync=self._sync", "sync=False", seed=2
    ),
    "a checkpoint is named before it is on disk": Mutant(
        f"{ENGINE}._bring_to_disk", "self._tables.sync()", "pass"
    ),
    "a store is opened at whatever its tables have": Mutant(
        f"{ENGINE}._open", "self._roots.restore(saved)", "pass"
    ),
    "after a recovery the first of two files of the journal is not freed": Mutant(
        f"{ENGINE}._recover", "if journal.goes_on:", "if False:", seed=19
    ),
    "recovery leaves out the first record": Mutant(
        f"{JOURNAL}:Journal.recover", "if number > after:", "if number > after + 1:"
    ),
}

OF_THE_ROTTING = {
    "records are believed whatever they hold": Mutant(
        f"{JOURNAL}:Journal._tell", "if self._sync:\n    raise damage", "pass", seed=29
    ),
}

SHOWN_BY = {
    "forgetful": OF_THE_FORGETFUL,
    "scattered": OF_THE_SCATTERED,
    "quiet": OF_THE_QUIET,
    "crowded": OF_THE_CROWDED,
    "asked": OF_THE_ASKED,
    "contended": OF_THE_CONTENDED,
    "on_real_stores": ON_REAL_STORES,
    "rotting": OF_THE_ROTTING,
}
"""Those that runs of a certain shape show (`shapes.py`); any runs show the `MUTANTS`."""
