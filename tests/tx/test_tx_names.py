"""Names, votes and checks of what callers pass."""

from __future__ import annotations

import itertools
import random

import pytest

from wormspace.errors import NewerFormat, ProtocolViolation, UsageError
from wormspace.tx import checking, deciding, names, variants
from wormspace.tx.deciding import ABORTED, ALL_YES, COMMITTED, Decision, Vote
from wormspace.tx.names import Gid, TxId
from wormspace.tx.viewing import Seen

A = TxId("a", 1)


def yes(manager: str) -> Vote:
    return Vote(True, ("a", "b"), f"gid {manager}", 1.0, manager)


def no(manager: str, conflict: bool = False) -> Vote:
    return Vote(False, ("a", "b"), f"gid {manager}", 2.0, f"by {manager}", "full", conflict)


# ---------------------------------------------------------------- names


NAMES = [
    "".join(rng.choices("aZ0_.-:/ é", weights=[9, 9, 9, 9, 9, 1, 1, 1, 1, 1], k=size))
    for size in range(23)
    for rng in [random.Random(size), random.Random(-size)]
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_letters_digits_underscores_and_dots(name: str) -> None:
    fits = 0 < len(name) <= 20 and not set(name) & set("-:/ é")
    if fits:
        assert names.check_name(name) == name
    else:
        with pytest.raises(UsageError, match="a name here has 1 to 20"):
            names.check_name(name)
    vote_space = names.vote_space("tx", name, "j")
    assert names.split_vote_space("tx", vote_space) == ((name, "j") if fits else None)
    assert names.split_vote_space("tx", f"tx/m/{name}") == (("m", name) if fits else None)


@pytest.mark.parametrize("name", ["tx", "tx/a", "tx/a/b/c", "ty/a/b", "tx//b", ""])
def test_other_spaces_hold_no_votes(name: str) -> None:
    assert names.split_vote_space("tx", name) is None


@pytest.mark.parametrize(
    "text",
    ["a", "a-", "-1", "a-1-1", "a-x", "a-1 ", "a-\u0661", f"{'a' * 21}-1", "a-" + "1" * 19, 5],
)
def test_what_is_no_transaction_is_refused(text) -> None:
    with pytest.raises(UsageError, match="INITIATOR-NUMBER"):
        TxId.parse(text)
    if isinstance(text, str):
        assert Gid.parse(f"worm:tx:m:{text}") is None
        assert Gid.parse(f"worm2:{'0' * 16}:tx:m:{text}") is None


def test_an_identifier_says_all_of_its_names_in_their_order() -> None:
    gid = Gid("0123456789abcdef", "space", "manager", TxId("initiator", 7))
    assert str(gid) == "worm2:0123456789abcdef:space:manager:initiator-7"
    assert Gid.parse(str(gid)) == gid
    old = Gid("", "space", "manager", TxId("initiator", 7))
    assert str(old) == "worm:space:manager:initiator-7"
    assert Gid.parse(str(old)) == old
    assert TxId.parse("initiator-7") == gid.id
    assert str(gid.id) == "initiator-7"
    assert gid.id.address(4) == (1, 3)
    for text in ("worm3" + str(gid)[5:], "worm2:xyz:space:manager:i-7", str(gid) + "\n"):
        assert Gid.parse(text) is None


@pytest.mark.parametrize(
    ("txid", "says"),
    [
        (("a", 1), "a TxId"),
        (TxId("a", True), "a TxId"),
        (TxId("a", 1.0), "a TxId"),
        (TxId("a", -1), "below 10"),
        (TxId("a", 10**18), "below 10"),
        (TxId("a b", 1), "a name here"),
    ],
)
def test_an_id_that_no_transaction_has_is_refused(txid, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        names.check_id(txid)


@pytest.mark.parametrize("number", [0, 10**18 - 1])
def test_any_other_id_may_be(number: int) -> None:
    assert names.check_id(TxId("a", number)) == ("a", number)


def test_of_what_a_database_holds_a_managers_branches_are_found(caplog) -> None:
    ours = Gid("0" * 16, "tx", "m", A)
    others = [str(Gid("0" * 16, "tx", manager, A)) for manager in ("l", "n")]
    texts = [str(ours), *others, "worm3:x", "worm:", "wormy", "other"]
    assert names.branches_of("m", texts) == [ours]
    assert [r.args for r in caplog.records] == [("m", "worm3:x"), ("m", "worm:")]


# ---------------------------------------------------------------- votes and decisions


@pytest.mark.parametrize("size", [1, 199, 200, 201, 1000])
def test_a_reason_is_told_whole_or_its_beginning(size: int) -> None:
    told = deciding.shortened("x" * size)
    assert told == ("x" * size if size <= 200 else "x" * 197 + "...")
    assert deciding.shortened("a\ud800") == "a?"


def test_what_is_no_vote_is_told_from_a_newer_one() -> None:
    raw = deciding.encode(no("a", True))
    assert deciding.decode(raw) == no("a", True)
    assert raw[:2] == b"\xc1\x01"
    for wrong in (b"", b"\xc1", b"\xc2" + raw[1:], raw[:2], raw[:-1]):
        with pytest.raises(ProtocolViolation):
            deciding.decode(wrong)
    for newer in (raw[2:], b""):
        with pytest.raises(NewerFormat, match="format 2"):
            deciding.decode(b"\xc1\x02" + newer)


@pytest.mark.parametrize("said", [*itertools.product(["yes", "no", "missing"], repeat=2)])
def test_a_decision_names_the_first_who_said_no(said) -> None:
    votes = {p: yes(p) if s == "yes" else no(p, p == "b") for p, s in zip("ab", said, strict=True)}
    votes = {p: v for (p, v), s in zip(votes.items(), said, strict=True) if s != "missing"}
    found = deciding.judge(("a", "b"), votes)
    if "no" in said:
        culprit = "ab"[said.index("no")]
        told = (culprit, f"by {culprit}", "full", culprit == "b")
        assert found == Decision(ABORTED, *told)
        assert not found.committed
    else:
        assert found == (ALL_YES if said == ("yes", "yes") else None)
    assert ALL_YES.committed
    assert not Decision(deciding.UNDECIDED).committed
    assert [deciding.said(votes.get(p)) for p in "ab"] == list(said)


def test_what_is_seen_of_a_transaction() -> None:
    seen = Seen(A)
    assert (seen.participants, seen.missing, seen.outcome, seen.at) == ((), (), COMMITTED, 0.0)
    seen.votes["b"] = Vote(False, (), "", 3.0, "x")
    assert (seen.participants, seen.missing, seen.outcome) == (("b",), (), ABORTED)
    seen.votes["a"] = yes("a")
    assert (seen.participants, seen.missing, seen.at) == (("a", "b"), (), 3.0)
    del seen.votes["b"]
    assert (seen.missing, seen.outcome) == (("b",), "undecided")
    seen.votes["b"] = yes("b")
    assert seen.outcome == COMMITTED


# ---------------------------------------------------------------- checks


@pytest.mark.parametrize("value", [0, -1, 10**9 + 1, float("nan"), float("inf"), True, "1", None])
def test_no_time_limit_is_refused(value) -> None:
    with pytest.raises(UsageError, match=r"^a limit is a number of seconds, above 0"):
        checking.check_seconds("a limit", value)
    if value != 0 or value is True:
        with pytest.raises(UsageError, match="0 or more"):
            checking.check_seconds("a limit", value, zero=True)
    else:
        assert checking.check_seconds("a limit", value, zero=True) == 0


@pytest.mark.parametrize("value", [1e-9, 1, 0.5, 10**9])
def test_a_time_limit_may_be_anything_else(value) -> None:
    assert checking.check_seconds("a limit", value) == value
    assert checking.check_seconds("a limit", value, zero=True) == value


class Manager:
    name = "m"

    def prepared(self) -> None: ...

    def identity(self) -> None: ...


class Nameless:
    def prepared(self) -> None: ...

    def identity(self) -> None: ...


class NotAsked:
    name = "m"
    prepared = 5

    def identity(self) -> None: ...


class Nobody:
    name = "m"

    def prepared(self) -> None: ...


REFUSED = [
    (checking.check_call, ("a clock", 5), "a clock is a function, not 5"),
    (checking.check_call, ("a clock", "x" * 58), "not 'x{58}'\\.\\.\\."),
    (checking.check_manager, (Manager,), "Manager is a class: make one"),
    (checking.check_manager, (Nameless(),), "is no resource manager"),
    (checking.check_manager, (NotAsked(),), "is no resource manager"),
    (checking.check_manager, (Nobody(),), "is no resource manager"),
    (checking.check_count, ("a number", 0), "a number is an integer of 1 or more, not 0"),
    (checking.check_count, ("a number", True), "not True"),
    (checking.check_count, ("a number", 1.0), "not 1.0"),
    (checking.check_names, ("they", "ab"), "they are several names"),
    (checking.check_names, ("they", b"ab"), "several names"),
    (checking.check_names, ("they", {"a": 1}), "several names"),
    (checking.check_names, ("they", 5), "several names"),
    (checking.check_names, ("they", []), "they are at least one name"),
    (checking.check_names, ("they", ["a", "b", "a"]), "each once"),
    (checking.check_names, ("they", ["a", "b c"]), "a name here"),
    (checking.check_key, ("a",), "a key is 1 to 127 bytes, not 'a'"),
    (checking.check_key, (b"",), "1 to 127"),
    (checking.check_key, (bytes(128),), "1 to 127"),
    (checking.check_value, ("a",), "a value is bytes, not str"),
    (checking.check_value, (bytes(checking.VALUE_MAX + 1),), "at most"),
]


@pytest.mark.parametrize(("check", "given_", "says"), REFUSED)
def test_what_makes_no_sense_is_refused_and_why_is_said(check, given_, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check(*given_)


def test_what_makes_sense_is_passed() -> None:
    checking.check_call("a clock", len)
    checking.check_manager(Manager())
    assert checking.check_count("a number", 1) == 1
    assert checking.check_names("they", iter(["b", "a"])) == ("b", "a")
    assert checking.check_key(bytes(127)) == bytes(127)
    assert checking.check_key(b"k") == b"k"
    assert checking.check_value(b"") == b""
    assert checking.check_value(bytes(checking.VALUE_MAX))
    assert checking._short("x" * 57) == repr("x" * 57)


@pytest.mark.parametrize("name", ["X9", "", None, 5, ["E3"]])
def test_a_variant_that_there_is_not_is_refused(name) -> None:
    with pytest.raises(UsageError, match="a variant is one of A8, B6, C5, D4, E3, F2"):
        variants.find(name)
    assert variants.find(variants.DEFAULT).name == "E3"
