"""What users pass, checked at the door: what is taken, as what, and what is said of the rest."""

import math
from pathlib import Path

import pytest

import wormspace
from wormspace.errors import BadToken, UsageError
from wormspace.runtime.endpoints import as_port
from wormspace.smr import Causal, Eventual, Linearizable, Sequential, StateMachine
from wormspace.smr.arguments import (
    LAST_NS,
    MAX_NAME_BYTES,
    as_addresses,
    as_choice,
    as_client,
    as_clock,
    as_count,
    as_directory,
    as_lease,
    as_level,
    as_machine,
    as_number,
    as_replicated,
    as_str,
    as_text,
)
from wormspace.smr.consistency import Session
from wormspace.smr.errors import CommandFailed, EventsLost
from wormspace.space import Address
from wormspace.space.arguments import MAX_TIMEOUT_S


class Machine(StateMachine):
    pass


class Text(str):
    __slots__ = ()


class Place:
    def save(self):
        """Nothing."""

    load = 7


def clock(time):
    return lambda: time


TAKEN = [
    (lambda: as_machine(Machine), Machine),
    *((lambda level=level: as_level(level), level) for level in (Linearizable(), Sequential())),
    *((lambda level=level: as_level(level), level) for level in (Causal(), Eventual())),
    (lambda: as_text("é" * 127 + "x", "it"), "é" * 127 + "x"),
    (lambda: as_text("", "it"), ""),
    (lambda: as_str(Text("x" * 999), "it"), "x" * 999),
    (lambda: as_directory("."), Path()),
    (lambda: as_directory(Path("a") / "b"), Path("a/b")),
    *((lambda n=n: as_port(n, 1), n) for n in (1, 2, 65535)),
    (lambda: as_port(0, 0), 0),
    (lambda: as_addresses([("h", 1), ["g", 2]]), [("h", 1), ("g", 2)]),
    (lambda: as_addresses(iter({("h", 65535)})), [("h", 65535)]),
    (lambda: as_choice(Machine(), "it", "due", "leases") is None, False),
    *((lambda n=n: as_lease(n), float(n)) for n in (1, 0.5, MAX_TIMEOUT_S)),
    *((lambda n=n: as_number(n, "it", 1.5), None) for n in (1.5, 2, 1e300)),
    *((lambda n=n: as_count(n, "it", 2), None) for n in (2, 3, 1 << 70)),
    *((lambda n=n: as_count(n, "it", 2, 4), None) for n in (2, 3, 4)),
]


@pytest.mark.parametrize(("take", "taken"), TAKEN)
def test_what_is_right_is_taken(take, taken):
    found = take()
    assert (found, type(found)) == (taken, type(taken))


def test_a_clock_says_a_time_that_commands_can_have():
    for time in (0, 0.5, -3, LAST_NS / 1e9 - 1e-6, -LAST_NS / 1e9 + 1e-6):
        one = clock(time)
        assert as_clock(one) is one
    for wrong, shown in [
        *((clock(time), repr(time)) for time in (LAST_NS / 1e9, -LAST_NS / 1e9, 1e300, "now")),
        *((clock(time), repr(time)) for time in (math.nan, math.inf, None, True)),
        (5.0, "5.0"),
        (None, "None"),
    ]:
        words = f"a clock is a function that returns seconds since the epoch, and this is {shown}"
        with pytest.raises(UsageError) as found:
            as_clock(wrong)
        assert str(found.value) == words


LEVELS = "Linearizable(), Sequential(), Causal(), Eventual()"

REFUSED = [
    (lambda: as_machine(Machine()), "a state machine is a class, not Machine: pass the class and "),
    (lambda: as_machine("Machine"), "a state machine is a class, not str"),
    (lambda: as_machine(int), "use a subclass of StateMachine, not int"),
    (lambda: as_machine(StateMachine), "use a subclass of StateMachine, not StateMachine"),
    (lambda: as_level(Causal), "a consistency level is an object: Causal() with parentheses"),
    (lambda: as_level("causal"), f"a consistency level is one of {LEVELS}, not str"),
    (lambda: as_level(int), f"a consistency level is one of {LEVELS}, not the class int"),
    (lambda: as_text("é" * 128, "it"), f"it has at most {MAX_NAME_BYTES} bytes, not 256"),
    (lambda: as_text("x" * 999, "it"), f"it has at most {MAX_NAME_BYTES} bytes, not 999"),
    (lambda: as_text(b"x", "it"), "it is a str, not bytes"),
    (lambda: as_str(str, "it"), "it is a str, not the class str"),
    (lambda: as_str("\ud800", "it"), "it is valid Unicode, not '\\ud800'"),
    (lambda: as_directory(7), "a directory is a str or a Path, not int"),
    (lambda: as_directory(b"x"), "a directory is a str or a Path, not bytes"),
    (lambda: as_directory(""), "a directory has a name: "),
    (lambda: as_directory("a\0b"), "no file system has a directory called 'a\\x00b'"),
    *((lambda n=n: as_port(n, 1), f"a port is an int from 1 to 65535, not {n!r}") for n in (0, -1)),
    (lambda: as_port(65536, 1), "a port is an int from 1 to 65535, not 65536"),
    *((lambda n=n: as_port(n, 1), f"from 1 to 65535, not {n!r}") for n in (1.0, True, "80", None)),
    (lambda: as_port(-1, 0), "a port is an int from 0 to 65535, not -1"),
    (lambda: as_addresses("h:1"), "addresses are a list of (host, port), not str"),
    (lambda: as_addresses(b"h:1"), "addresses are a list of (host, port), not bytes"),
    (lambda: as_addresses(7), "addresses are a list of (host, port), not int"),
    (lambda: as_addresses([]), "name the address of at least one replica"),
    *((lambda a=a: as_addresses([a]), f"an address is a pair of a host and a port, not {a!r}")
      for a in ("h1", ("h",), ("h", 1, 2), 7, {"h"})),
    (lambda: as_addresses([("h", 1), (2, 1)]), "a host is a str, not int"),
    (lambda: as_addresses([("h", 0)]), "a port is an int from 1 to 65535, not 0"),
    (lambda: as_choice(Place, "it", "save"), "it is an object: Place() with parentheses"),
    (lambda: as_choice(Place(), "it", "save", "load"), "it has a method 'load', and Place has"),
    (lambda: as_choice(Place(), "it", "none", "save"), "it has a method 'none', and Place has"),
    (lambda: as_replicated(Machine(), "it", "due"), "it is what worm.replicate or attach gave"),
    (lambda: as_replicated(Place(), "it", "save", "x"), "it has a method 'x', and Place has none"),
    (lambda: as_replicated(Place, "it", "save"), "it is an object: Place() with parentheses"),
    (lambda: as_client("memory:"), "a connection is what connect() gives, not str"),
    *((lambda n=n: as_lease(n), f"up to {MAX_TIMEOUT_S:g}, not {n!r}")
      for n in (0, -1, 0.0, MAX_TIMEOUT_S * 1.01, math.inf, math.nan, True, "1", None)),
    *((lambda n=n: as_number(n, "it", 1.5), f"it is a number, 1.5 or more, not {n!r}")
      for n in (1.4, 1, -2, math.inf, math.nan, True, "2", None)),
    *((lambda n=n: as_count(n, "it", 2), f"it is an int, 2 or more, not {n!r}")
      for n in (1, 0, -5, 2.0, True, "2", None)),
    (lambda: as_count(5, "it", 2, 4), "it is at most 4, not 5"),
    (lambda: as_count(9, "it", 2, 4), "it is at most 4, not 9"),
    (lambda: as_count(1, "it", 2, 4), "it is an int, 2 or more, not 1"),
]  # fmt: skip


@pytest.mark.parametrize(("take", "words"), REFUSED)
def test_what_is_wrong_is_refused_in_words(take, words):
    with pytest.raises(UsageError) as found:
        take()
    assert words in str(found.value)


async def test_a_connection_and_what_was_replicated_are_taken_as_they_are():
    async with wormspace.connect("memory:") as worm:
        assert as_client(worm) is worm
    place = Place()
    assert as_replicated(place, "it", "save") is place
    assert as_choice(place, "it") is place


def test_a_session_never_sees_less_and_its_token_says_what():
    one, other = Session(), Session()
    assert (one.seen, one.token) == (Address(0, 0), "0/0")
    for position, seen in [((1, 2), (1, 2)), ((1, 1), (1, 2)), ((0, 9), (1, 2)), ((2, 0), (2, 0))]:
        one.saw(Address(*position))
        assert one.seen == Address(*seen)
    other.join(one.token)
    assert other.seen == Address(2, 0)
    other.join("1/5")
    assert other.token == "2/0"
    for word in ("", "2", "x/y", "2/0/0"):
        with pytest.raises(BadToken, match="is no session's token"):
            other.join(word)


def test_errors_say_what_they_are_about():
    failed, bare = CommandFailed("Odd", "too many"), CommandFailed("Odd", "")
    assert (failed.kind, str(failed), str(bare)) == ("Odd", "Odd: too many", "Odd")
    lost = EventsLost("gone", 7)
    assert (lost.first, str(lost)) == (7, "gone")
