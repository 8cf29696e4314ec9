"""Pieces of snapshots: what is in them, how large they are, and which are refused as damaged."""

import asyncio
import hashlib
import random

import msgspec
import pytest
from digests import state_digest

from wormspace.errors import NewerFormat, WrongIdentity
from wormspace.knobs import KNOBS, turned
from wormspace.smr import BadSnapshot, ShapeChanged, StateMachine, Table
from wormspace.smr.engine import Engine
from wormspace.smr.errors import NothingKept
from wormspace.smr.records import Packet, encode
from wormspace.smr.snapshots import (
    FORMAT,
    Audit,
    Chunk,
    Head,
    Part,
    Snapshot,
    Tail,
    Value,
    identity_kept,
    require_same,
    restore,
)
from wormspace.space import Address

decode = msgspec.msgpack.Decoder(Head | Value | Chunk | Part | Tail).decode


class Store(StateMachine):
    name: str = ""
    pair: tuple[int, str] = (0, "")
    counts: dict[str, int] = {}  # noqa: RUF012
    order: list[str] = []  # noqa: RUF012
    tags: set[str] = set()  # noqa: RUF012
    deep: dict[str, list[int]] | None = None
    rows: Table[int, str]
    more: Table[int, str]


def engine(**state):
    one = Engine(Store())
    for name, value in state.items():
        if name in ("rows", "more"):
            getattr(one.machine, name).update(value)
        else:
            setattr(one.machine, name, value)
    return one


def pieces(one):
    snapshot = Snapshot(one)
    try:
        return list(snapshot.pieces())
    finally:
        snapshot.close()


def restored(some, machine_type=Store):
    async def stream():
        for piece in some:
            yield piece

    return asyncio.run(restore(machine_type, stream()))


def whole(*messages):
    """These pieces, with the digest that they have."""
    raws = [encode(one) for one in messages]
    return [*raws, encode(Tail(hashlib.blake2b(b"".join(raws), digest_size=16).digest()))]


def head(**changes):
    first = decode(pieces(engine())[0])
    return msgspec.structs.replace(first, **changes)


# ---------------------------------------------------------------- what is in them


def test_a_snapshot_has_its_head_sessions_values_and_what_there_is_much_of():
    one = engine(name="n", pair=(1, "x"), counts={"b": 2, "a": 1}, order=["z", "y"], tags={"t"})
    one.machine.deep = {"d": [1]}
    one.machine.rows.update({2: "two", 1: "one"})
    one.position, one.rests, one.emitted = Address(3, 4), {5, 2}, 7
    one.chain, one.time_ns, one.identity = b"c" * 16, 99, b"space 1"
    one.sessions.keep(Packet(b"client", 2, 1, b""), b"outcome", 50)
    one.sessions.expire(60)
    found = [decode(raw) for raw in pieces(one)]
    shape = Store.declaration.shape
    assert found[0] == Head(
        FORMAT,
        "Store",
        1,
        shape,
        Address(3, 4),
        [2, 5],
        7,
        b"c" * 16,
        99,
        one.sessions.dump().batch,
        b"space 1",
    )
    held = {piece.attribute: msgspec.msgpack.decode(piece.value) for piece in found[2:5]}
    assert held == {"name": "n", "pair": [1, "x"], "deep": {"d": [1]}}
    chunks = [
        (piece.name, msgspec.msgpack.decode(piece.items)) for piece in [found[1], *found[5:-1]]
    ]
    assert chunks == [
        ("", [[b"client", [1, 50, 0, {2: b"outcome"}]]]),
        ("counts", [["b", 2], ["a", 1]]),
        ("order", ["z", "y"]),
        ("tags", ["t"]),
        ("rows", [[1, "one"], [2, "two"]]),
    ]
    assert isinstance(found[-1], Tail)


def test_what_a_snapshot_was_taken_of_comes_back():
    one = engine(name="n", pair=(1, "x"), counts={"b": 2, "a": 1}, tags={"t"}, rows={2: "b"})
    one.machine.deep = {"d": [1]}
    one.position, one.rests, one.emitted = Address(3, 4), {5, 2}, 7
    one.chain, one.time_ns = b"c" * 16, 99
    for n in range(3):
        one.sessions.keep(Packet(b"%d" % n, 2, 1, b""), b"outcome", 50 + n)
        one.sessions.expire(60)
    back = restored(pieces(one))
    for name in ("position", "rests", "emitted", "chain", "time_ns"):
        assert getattr(back, name) == getattr(one, name)
    assert dict(back.chains) == {Address(3, 4): b"c" * 16}
    assert back.sessions.dump() == one.sessions.dump()
    assert (back.machine.name, back.machine.pair) == ("n", (1, "x"))
    assert list(back.machine.counts.items()) == [("b", 2), ("a", 1)]
    assert (back.machine.tags, back.machine.deep) == ({"t"}, {"d": [1]})
    assert list(back.machine.rows.items()) == [(2, "b")]
    assert back.lineage.newest is Store
    back.machine._journal.begin()
    for change in (
        lambda m: m.deep["d"].append(2),
        lambda m: m.counts.clear(),
        lambda m: m.tags.add("u"),
        lambda m: m.rows.clear(),
        lambda m: setattr(m, "name", "other"),
    ):
        change(back.machine)
    back.machine._journal.roll_back()
    assert state_digest(back) == state_digest(one), "and its changes can be undone"


def test_who_has_taken_a_snapshot_or_a_digest_is_told_of_no_change_afterwards():
    one = engine(counts={"a": 1}, rows={1: "a"})
    audit, snapshot = Audit(one), Snapshot(one)
    assert len(one.machine._journal.images) == 2
    assert len(one.machine.rows._frozen) == len(one.machine.more._frozen) == 2
    assert (audit.position, snapshot.position) == (one.position, one.position)
    audit.close()
    snapshot.close()
    state_digest(one)
    assert one.machine._journal.images == []
    assert one.machine.rows._frozen == one.machine.more._frozen == []


# ---------------------------------------------------------------- how large they are


def test_a_piece_is_about_as_large_as_was_set_and_its_parts_no_larger():
    one = engine(counts={f"{n:03}": n for n in range(200)}, order=["x" * 500], rows={1: "y" * 60})
    for n in range(20):
        one.sessions.keep(Packet(b"%d" % n, 1, 1, b""), b"z" * 30, 0)
    with turned(smr_piece_bytes=64, smr_piece_rows=2, smr_part_bytes=100):
        found = pieces(one)
        chunks = [piece for raw in found if isinstance(piece := decode(raw), Chunk)]
        for chunk in chunks:
            items = msgspec.msgpack.decode(chunk.items, type=list[msgspec.Raw])
            sizes = [len(bytes(one)) for one in items]
            assert sum(sizes[:-1]) < 64
            assert sum(sizes) >= 64 or chunk is [c for c in chunks if c.name == chunk.name][-1]
        parts = [(n, decode(raw)) for n, raw in enumerate(found)]
        for n, piece in parts:
            if isinstance(piece, Part):
                assert len(piece.piece) == 100 or piece.is_last
                assert piece.is_last or isinstance(parts[n + 1][1], Part)
            else:
                assert len(found[n]) <= 100
        assert sum(isinstance(piece, Part) and piece.is_last for _, piece in parts) >= 2
    back = restored(found)
    assert state_digest(back) == state_digest(one)


@pytest.mark.parametrize(("size", "count"), [(99, 1), (100, 1), (101, 2), (200, 2), (201, 3)])
def test_only_what_does_not_fit_is_cut_into_parts(size, count):
    one = engine()
    with turned(smr_part_bytes=1 << 20):
        name = "x" * (size - len(encode(Value("name", encode("y" * 50)))) + 50)
    one.machine.name = name
    raw = encode(Value("name", encode(name)))
    with turned(smr_part_bytes=100):
        found = [decode(raw) for raw in pieces(one)]
    assert len(raw) == size
    values = [piece for piece in found if isinstance(piece, Value) and piece.attribute == "name"]
    if count == 1:
        assert values == [Value("name", encode(name))]
    else:
        joined = [bytes(piece.piece) for piece in found if isinstance(piece, Part)]
        at = next(n for n in range(len(joined)) if b"".join(joined[n : n + count]) == raw)
        assert [len(one) for one in joined[at : at + count - 1]] == [100] * (count - 1)


# ---------------------------------------------------------------- what is refused


DAMAGED = {
    "only its end": lambda: whole(),
    "no head": lambda: whole(Value("name", encode("x"))),
    "no end": lambda: pieces(engine())[:-1],
    "another digest": lambda: [*pieces(engine())[:-1], encode(Tail(bytes(16)))],
    "two heads": lambda: whole(head(), head()),
    "an end within a part": lambda: whole(head(), Part(b"x", False)),
    "parts of nothing": lambda: whole(head(), Part(b"x", True)),
    "no attribute of this class": lambda: whole(head(), Value("nobody", encode(1))),
    "no container of this class": lambda: whole(head(), Chunk("nobody", encode([]))),
    "a value in pieces": lambda: whole(head(), Chunk("name", encode(["x"]))),
    "a value of another type": lambda: whole(head(), Value("name", encode(7))),
    "items of another type": lambda: whole(head(), Chunk("order", encode([7]))),
    "rows of another type": lambda: whole(head(), Chunk("rows", encode([["a", 1]]))),
    "sessions that are none": lambda: whole(head(), Chunk("", encode([["a"]]))),
    "text that is none": lambda: whole(head(), Value("name", b"\xa1\xff")),
    "bytes": lambda: [b"\xc1"],
    "a map": lambda: [encode({"head": 1})],
    "a number": lambda: [encode(7)],
    "an empty array": lambda: [encode([])],
    "another message": lambda: [encode(["reply", 1])],
    "a head of nothing": lambda: [encode(["head"])],
    "a format that is none": lambda: [encode(["head", "new"])],
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_not_whole_is_refused(what):
    with pytest.raises(BadSnapshot):
        restored(DAMAGED[what]())


def test_a_snapshot_that_is_as_small_as_can_be_is_whole():
    assert restored(whole(head(position=Address(2, 1)))).position == Address(2, 1)
    first = encode(head())
    parts = [Part(first[:10], False), Part(first[10:], True)]
    assert restored(whole(*parts)).position == Address(0, 0)
    with pytest.raises(NothingKept):
        restored([])


def test_what_a_newer_wormspace_made_is_said_to_be_newer_whatever_else_is_in_it():
    for newer in (encode(head(format=FORMAT + 1)), encode(["head", FORMAT + 1, {"all": "new"}])):
        with pytest.raises(NewerFormat, match=rf"format {FORMAT + 1}.*up to {FORMAT}: update"):
            restored([newer])
    with pytest.raises(ShapeChanged, match="the snapshot of a Store"):
        restored(whole(head(shape={})))


# ---------------------------------------------------------------- what is hashed


DIFFERENT = {
    "nothing": {},
    "a name": {"name": "a"},
    "another name": {"name": "b"},
    "a pair": {"pair": (1, "a")},
    "a count": {"counts": {"a": 1}},
    "another count": {"counts": {"a": 2}},
    "another's count": {"counts": {"b": 1}},
    "two counts": {"counts": {"a": 1, "b": 2}},
    "exchanged": {"counts": {"a": 2, "b": 1}},
    "an order": {"order": ["a", "b"]},
    "another order": {"order": ["b", "a"]},
    "longer": {"order": ["a", "b", "a"]},
    "a tag": {"tags": {"a"}},
    "another tag": {"tags": {"b"}},
    "two tags": {"tags": {"a", "b"}},
    "deep": {"deep": {"a": [1]}},
    "deeper": {"deep": {"a": [1, 2]}},
    "none": {"deep": {}},
    "a row": {"rows": {1: "a"}},
    "another row": {"rows": {1: "b"}},
    "two rows": {"rows": {1: "a", 2: "b"}},
    "a row elsewhere": {"more": {1: "a"}},
    "many": {"order": ["x"] * 300},
    "many others": {"order": ["x"] * 299 + ["y"]},
}


def test_states_that_differ_have_different_digests():
    digests = {what: state_digest(engine(**state)) for what, state in DIFFERENT.items()}
    assert len(set(digests.values())) == len(DIFFERENT)
    assert {len(one) for one in digests.values()} == {16}


class Shelf(StateMachine):
    count: int = 0


class Shelf2(Shelf, version=2, replaces=Shelf):
    count: int = 0


def test_equal_states_of_two_versions_differ():
    assert state_digest(Engine(Shelf())) != state_digest(Engine(Shelf2()))


def test_states_that_are_equal_have_equal_digests_whatever_their_history():
    names = [f"{n}" for n in range(300)]
    digests = set()
    for seed in range(3):
        order = random.Random(seed).sample(names, len(names))
        one = engine(
            counts={name: len(name) for name in order},
            tags=set(order),
            rows={int(name): name for name in order},
        )
        one.machine.deep = {name: [1] for name in order}
        digests.add(state_digest(one))
    assert len(digests) == 1


def test_an_audit_lets_others_run_after_each_bounded_piece_of_work():
    one = engine(
        counts={f"{n}": n for n in range(10)},
        order=[f"{n}" for n in range(10)],
        tags={f"{n}" for n in range(10)},
        rows=dict.fromkeys(range(10), "x"),
    )
    with turned(smr_piece_rows=4):
        audit = Audit(one)
        assert len(list(audit.steps())) == 4 * 3
        audit.close()


def told(some):
    async def stream():
        for piece in some:
            yield piece

    return asyncio.run(identity_kept(stream()))


@pytest.mark.parametrize("part_bytes", [KNOBS.smr_part_bytes, 7])
def test_a_snapshot_says_of_which_space_it_is_and_is_begun_with_in_no_other(part_bytes):
    one = engine(name="n")
    one.identity = b"space 1"
    with turned(smr_part_bytes=part_bytes):
        some = pieces(one)
    assert told(some) == b"space 1"
    assert told(some[:1]) == (b"space 1" if part_bytes > 7 else None), (
        "not all of its head is there"
    )
    assert told([]) is told([b"garbage"]) is told(some[-1:]) is None

    async def stream():
        for piece in some:
            yield piece

    for other in (b"space 2", b"space 11"):
        with pytest.raises(WrongIdentity, match=r"7370616365203.*a place for snapshots of its own"):
            asyncio.run(restore(Store, stream(), other))
    for same in (b"space 1", b""):
        assert asyncio.run(restore(Store, stream(), same)).identity == b"space 1"


def test_whether_it_is_of_this_space_is_asked_before_whether_it_is_of_this_class():
    one = engine()
    one.identity = b"space 1"

    async def stream():
        for piece in pieces(one):
            yield piece

    with pytest.raises(WrongIdentity):
        asyncio.run(restore(Shelf, stream(), b"space 2"))
    with pytest.raises(WrongIdentity, match="space is unknown"):
        require_same(b"space 1", b"")
    with pytest.raises(WrongIdentity, match="does not say of which space"):
        require_same(b"", b"space 1")


def test_what_a_newer_one_made_is_told_of_before_its_space():
    with pytest.raises(NewerFormat):
        told([encode(["head", FORMAT + 1, {"all": "new"}])])
