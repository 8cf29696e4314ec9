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
    "ballots": "No two captures ever use one ballot (64 random bits per client, rounds ascend).",
    "one value": "Under one ballot, at most one value is sent for a register: a captor completes "
    "only what it met, a token's holder writes only what it found free, each remembers.",
    "one issuer": "At most one client ever issues an unsafe write to a register, with one value "
    "(for the trim register: everybody, with the same value).",
    "pages first": "A captor has all reports it counts before it writes under its ballot.",
    "register": "Only the register's specification: a write changes an empty register or nothing; "
    "a read returns the register's content at a moment between call and return.",
    "two": "Executed for up to two or three elements only; the code treats them one by one.",
}

_BY_THEOREM = {
    "agreement": "wire, store, ballots, one value, one issuer",
    "immutability": "wire, store, ballots, one value, one issuer",
    "on_": "wire, store",
    "a captor": "ballots, one value, pages first",
    "the token's holder": "one value",
    "an unsafe write": "one issuer",
    "a node reports": "pages first, store",
    "a node deletes": "one issuer, store",
}


def assumed(layer: str, theorem: str) -> str:
    """The names of the assumptions that a theorem rests on, beside `python`."""
    if "(up to" in theorem:
        return "two"
    if layer.startswith("4"):
        return "register"
    if layer.startswith("1"):
        return "wire" if theorem.startswith("acceptor.on_") else ""
    for start, names in _BY_THEOREM.items():
        if theorem.startswith(start):
            return names
    return "wire, store, ballots, one value, one issuer" if layer.startswith("3") else ""
