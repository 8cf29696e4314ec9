"""What callers pass, value by value: what is taken, what is refused, and with which words."""

import asyncio
import math
import pickle

import pytest

from virtual import Watch, virtually
from wormspace.errors import BadAddress, UsageError, WrongKind
from wormspace.knobs import turned
from wormspace.log import checks
from wormspace.log.cursors import Cursors
from wormspace.log.durable_cell import DurableCell
from wormspace.log.errors import DamagedEntry, LogTrimmed
from wormspace.log.opening import MAX_SEGMENT_SIZE, MIN_SEGMENT_SIZE, Config, configure
from wormspace.log.records import MAX_POSITION
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.spaces import CONFIG, CURSOR, ENTRIES, check_log_name, cursor_space, metadata

ODD = "\ud800"


class Text(str):
    """A str of a kind of its own."""


class Bytes(bytes):
    """Bytes of a kind of their own."""


def refused(check, *given):
    with pytest.raises(UsageError) as told:
        check(*given)
    return str(told.value)


def test_bodies_are_bytes_and_copied_if_they_can_change():
    most = checks.MAX_ENTRIES
    given = checks.check_bodies([b"a", bytearray(b"b"), memoryview(b"c"), Bytes(b"d")])
    assert given == (b"a", b"b", b"c", b"d")
    assert {type(body) for body in given} == {bytes}
    assert checks.check_bodies(iter([b"a"])) == (b"a",)
    assert checks.check_bodies(()) == ()
    plain = (b"a", b"b")
    assert checks.check_bodies(plain) is plain, "nothing is copied that need not be"
    assert len(checks.check_bodies([b""] * most)) == most
    assert refused(checks.check_bodies, [b""] * (most + 1)).startswith(f"at most {most} entries")
    for one in (b"a", bytearray(b"a"), memoryview(b"a"), "a"):
        assert type(one).__name__ in refused(checks.check_bodies, one)
    assert "not int" in refused(checks.check_bodies, 7)
    assert refused(checks.check_bodies, [b"a", "b"]).endswith("not str; encode it first")
    assert refused(checks.check_body, 7) == "an entry's body is bytes, not int"
    body = b"a"
    assert checks.check_body(body) is body
    assert type(checks.check_body(Bytes(b"d"))) is bytes


def test_headers_and_streams_are_text():
    assert checks.check_headers({"a": "b", Text("c"): ""}) == {"a": "b", "c": ""}
    assert checks.check_headers(checks.NO_HEADERS) == {}
    for headers, words in (
        (None, "not NoneType"),
        ([("a", "b")], "not list"),
        ({1: "b"}, "a header's key is a str, not int"),
        ({"a": b"b"}, "a header is a str, not bytes"),
        ({"a": ODD}, "UTF-8"),
        ({ODD: "a"}, "a header's key is text"),
    ):
        assert words in refused(checks.check_headers, headers)
    assert checks.check_streams(["b", "a", "b"]) == ("b", "a")
    assert set(checks.check_streams({"a", "b"})) == {"a", "b"}
    assert checks.check_streams(frozenset("a")) == ("a",)
    for streams in ("a", None, 7, {"a": 1}, iter("a")):
        assert "try streams=[...]" in refused(checks.check_streams, streams)
    for name in ("a", "ä" * 127, "a" * 255):
        assert checks.check_stream(name) == name
    for name, size in (("", 0), ("ä" * 128, 256), ("a" * 256, 256)):
        assert refused(checks.check_stream, name).endswith(f"1 to 255 bytes, not {size}")
    assert "a stream's name is a str" in refused(checks.check_stream, 1)


def test_numbers_are_in_their_ranges():
    for position in (0, 1, MAX_POSITION - 1):
        assert checks.check_position(position) == position
    for position in (-1, MAX_POSITION):
        assert f"start is 0 or more and below 2**62, not {position}" == refused(
            checks.check_position, position, "start"
        )
    for wrong in (1.0, True, "1", None):
        assert refused(checks.check_position, wrong) == (
            f"a position is an int, not {type(wrong).__name__}"
        )
    for amount in (0, 0.0, 1.5, MAX_POSITION - 1):
        assert checks.check_amount(amount, "an age") == amount
    for amount in (-1, -0.1, MAX_POSITION, math.inf, math.nan):
        assert "an age is a number from 0 on" in refused(checks.check_amount, amount, "an age")
    for wrong in (True, "1", None, 1j):
        assert "an age is a number, not" in refused(checks.check_amount, wrong, "an age")


def test_words_are_those_that_there_are():
    for given in (True, False):
        checks.check_flag(given, "ahead")
    for given in (0, 1, None, "yes"):
        assert (
            refused(checks.check_flag, given, "ahead") == f"ahead is True or False, not {given!r}"
        )
    checks.check_choice("a", "which", ("a", "b"))
    for given in ("c", None, 1, ["a"]):
        assert refused(checks.check_choice, given, "which", ("a", "b")) == (
            f"which is one of 'a', 'b', not {given!r}"
        )


def test_names_have_room_for_what_belongs_to_a_log():
    for name in ("a", "a/b", "config", "trim/x", "a/configs", "n" * 245, "ä" * 122):
        assert check_log_name(name) == name
    for name, words in (
        ("", "1 to 245 bytes here, not 0"),
        ("n" * 246, "1 to 245 bytes here, not 246"),
        ("ä" * 123, "not 246"),
        (ODD, "UTF-8"),
        ("a/config", "no log is called 'a/config'"),
        ("a/b/cursor/x", "no log is called"),
        ("/trim", "no log is called"),
    ):
        with pytest.raises(BadAddress, match=words):
            check_log_name(name)
    with pytest.raises(UsageError, match="a log's name is a str, not int"):
        check_log_name(7)
    assert cursor_space("a", "config") == "a/cursor/config"
    assert len(cursor_space("ä", "c" * 245).encode()) == 255
    for consumer, words in (("", "1 to 245"), ("c" * 246, "not 246"), (ODD, "UTF-8")):
        with pytest.raises(BadAddress, match=f"a consumer's name .*{words}"):
            cursor_space("ä", consumer)


def test_a_log_keeps_the_sizes_with_which_it_was_made():
    async def work(worm):
        with turned(log_segment_size=77, log_cell_size=5):
            assert await configure(worm, "plain", None) == Config(77, 5)
        assert await configure(worm, "plain", None) == Config(77, 5)
        assert await configure(worm, "plain", 77) == Config(77, 5)
        with pytest.raises(UsageError, match="has segments of 77 registers, not 78"):
            await configure(worm, "plain", 78)
        with pytest.raises(UsageError, match="has segments of 77 registers, not 76"):
            await configure(worm, "plain", 76)
        for size in (MIN_SEGMENT_SIZE, MAX_SEGMENT_SIZE):
            assert (await configure(worm, f"of {size}", size)).segment_size == size
        both = (configure(worm, "at once", size) for size in (8, None))
        made = await asyncio.gather(*both, return_exceptions=True)
        agreed = await configure(worm, "at once", None)
        assert agreed in made
        assert all(one == agreed or isinstance(one, UsageError) for one in made)

    virtually(work)


def test_what_cannot_be_a_log_is_not_made_one():
    async def work(worm):
        watch = Watch(worm)
        for size in (MIN_SEGMENT_SIZE - 1, MAX_SEGMENT_SIZE + 1):
            with pytest.raises(UsageError, match=f"4 to 65536 registers, not {size}"):
                await configure(worm, "other", size)
        for size in (True, 4.0, "4"):
            with pytest.raises(UsageError, match=f"an int, not {type(size).__name__}"):
                await configure(worm, "other", size)
        with pytest.raises(BadAddress):
            await configure(worm, "a/trim", None)
        assert watch.counts() == {}, "nothing was asked"
        for said in (b"", b"\xc1", b"\x92\x03\x01", b"\x92\x08\x00"):
            name = f"broken {said!r}"
            await worm.space(f"{name}/config").alloc(metadata(CONFIG, said), 1)
            with pytest.raises(WrongKind, match="does not say how its log was made"):
                await configure(worm, name, None)
        await worm.space("taken/config").alloc(metadata(ENTRIES), 1)
        with pytest.raises(WrongKind, match="has the entries of a log, not the config of one"):
            await configure(worm, "taken", None)

    virtually(work)


def test_a_cursor_is_one_object_while_it_is_held_or_was_used_of_late():
    async def work(worm):
        made = []

        def make(name):
            made.append(name)
            return DurableCell(SegmentedLog(worm.space(f"log/cursor/{name}"), 4, CURSOR), int)

        with turned(log_cursors=2):
            cursors = Cursors(make, None, None)
            held = cursors.get("a")
            assert held.name == "a"
            for name in ("b", "c", "b", "d", "a"):
                cursors.get(name)
            assert made == ["a", "b", "c", "d"]
            assert cursors.get("a") is held
            assert list(cursors._recent) == ["d", "a"]
            cursors.get("b")
            cursors.get("d")
            assert made == ["a", "b", "c", "d", "b", "d"]
            assert sorted(cursors._alive) == ["a", "b", "d"]
        closed = []
        for name, cursor in cursors._alive.items():
            cursor._cell.close = noting(closed, name)
        await cursors.close()
        assert sorted(closed) == ["a", "b", "d"]

    virtually(work)


def noting(closed, name):
    async def close():
        closed.append(name)

    return close


def test_errors_say_where_to_go_on():
    gone = LogTrimmed("position 3 was trimmed", first=7)
    for one in (gone, pickle.loads(pickle.dumps(gone))):
        assert (str(one), one.first) == ("position 3 was trimmed", 7)
    damaged = DamagedEntry("cannot be read", position=3, next=5)
    for one in (damaged, pickle.loads(pickle.dumps(damaged))):
        assert (str(one), one.position, one.next) == ("cannot be read", 3, 5)
