"""What the theorems rest on, by name; the table refers to it."""

from __future__ import annotations

ASSUMPTIONS = {
    "python": "CPython runs the functions in production as it runs them here; `bytes` of one "
    "length, and the empty string below them, are totally ordered. z3 and cvc5 are right.",
    "wire": "Messages are as the decoder lets them through: ballots of 16 bytes, start < stop, the "
    "offsets of a write distinct. The network loses, delays, repeats and reorders, but does not "
    "forge.",
    "store": "A handler's slice is complete (it may hold more), its result is stored atomically, "
    "and durably before the answer leaves; a restart finds what was stored.",
    "ballots": "No two clients take one ballot (64 random bits each). That one client takes none "
    "twice is proved.",
    "one holder": "A token is handed over, not shared: no two clients write two values to a "
    "register under one token. (What one client does is proved.)",
    "one issuer": "At most one client ever issues an unsafe write to a register, with one value "
    "(for the trim register: everybody, with the same value).",
    "pages": "A captor counts a server's report as complete only when it has had all of its pages, "
    "but for registers that a report says are decided, which it does not write.",
    "register": "Only the register's specification: a write changes an empty register or nothing; "
    "a read returns the register's content at a moment between call and return.",
    "names": "No two allocators write equal metadata, no two appends equal values (nonces; writer "
    "and serial).",
    "codec": "Decoding is the inverse of encoding.",
    "not sole": "Others may hand out slots, too. (An embedded log, where nobody else is, goes on "
    "among the slots of its predecessor: without a minority, what it did not write is dead.)",
    "retries": "A retry was followed twice, and begins with the variables of the first attempt, "
    "but for those that pace it (checked); so it goes on like that.",
    "sessions": "No packet of a client that was forgotten is applied unless it says that the "
    "client has had an outcome: a first packet is not under way for an hour and 4,096 batches.",
    "each": "A comprehension treats the elements of a sequence one by one: followed for one "
    "arbitrary element and one other.",
    "digests": "No two values have one digest (BLAKE2b, 16 bytes).",
    "two": "Executed for as many elements as the theorem's name says; each may be any.",
}

_PROCEDURES = {
    "one value: register.Issued": "digests",
    "one value: PaxosRegisters.write": "register, digests",
    "one value": "",
    "pages first": "",
    "ballots": "",
    "space.Segment": "register, retries",
    "space.": "register, names, retries",
    "writer.": "register, retries",
    "log.SegmentedLog": "register, names",
    "log.Term": "register",
    "log.Sequencer": "register",
    "log.ReadCursor": "codec",
    "log.Reader": "register, codec",
    "log.Appender": "register, names, retries",
    "log.appending": "",
    "positions": "register, codec, not sole",
    "smr.Engine._apply": "sessions, each",
    "smr.Engine.apply": "",
    "smr.": "register, retries",
    "tx.deciding": "",
    "tx.VoteStore": "register, codec, retries",
    "tx.Resolver": "register, codec",
    "tx.": "",
    "loop": "",
    "segments": "register, names",
    "log:": "register, names",
    "the specification": "",
}
"""Of layer 4, by how a theorem's name begins; the first that fits."""

_ONE_BY_ONE = (
    "prepare.undecided",
    "prepare.absorb",
    "accept.finished",
    "accept.lost",
    "accept.contested",
)

_BY_THEOREM = {
    "agreement": "wire, store, ballots, one holder, one issuer",
    "immutability": "wire, store, ballots, one holder, one issuer",
    "on_": "wire, store",
    "a captor": "ballots, pages",
    "the token's holder": "one holder",
    "an unsafe write": "one issuer",
    "a node reports": "pages, store",
    "a node deletes": "one issuer, store",
    "promotion": "pages",
}


def assumed(layer: str, theorem: str) -> str:
    """The names of the assumptions that a theorem rests on, beside `python`."""
    two = ", two" if "(up to" in theorem else ""
    if layer.startswith("4"):
        fits = (names for start, names in _PROCEDURES.items() if theorem.startswith(start))
        return (next(fits, "register") + two).removeprefix(", ")
    if layer.startswith("1"):
        if theorem.startswith("reading.on_report"):
            return "each, two"  # by what is proved of `without`
        if theorem.startswith(_ONE_BY_ONE):
            return "each"
        return "wire" if theorem.startswith("acceptor.on_") else two.removeprefix(", ")
    for start, names in _BY_THEOREM.items():
        if theorem.startswith(start):
            return names
    return "wire, store, ballots, one holder, one issuer" if layer.startswith("3") else ""
