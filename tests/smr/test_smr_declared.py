"""What a class declares: what is state, which methods are calls, which version it is."""

from typing import ClassVar

import msgspec
import pytest

from wormspace.smr import BadDeclaration, StateMachine, Table, command, query
from wormspace.smr.calls import Malformed, encode_calls
from wormspace.smr.declare import Moment, is_table
from wormspace.smr.methods import run_whole
from wormspace.smr.state import StateDict, StateList
from wormspace.smr.table import StateTable


class Socket:
    pass


@pytest.fixture
def thing():
    """A class that is declared within the test."""

    class Thing(StateMachine):
        count: int = 3
        names: list[str] = ["a"]  # noqa: RUF012
        rows: Table[float, str]
        made: dict[str, int] = msgspec.field(default_factory=lambda: {"b": 1})
        limit: ClassVar[int] = 9
        bare: ClassVar = 8
        _hidden: int = 1
        event = int

        @property
        def twice(self):
            return 2 * self.count

        @twice.setter
        def twice(self, value):
            self.count = value // 2

        @command
        def add(self, n: int, again: bool = False) -> int:
            self.count += n
            return self.count

        @query
        def look(self) -> int:
            return self.count

        def plain(self):
            return 5

    return Thing


def declare(body=None, base=StateMachine, *, name="Wrong", version=1, replaces=None, **hints):
    members = {**(body or {}), "__annotations__": hints, "__module__": __name__}
    return type(name, (base,), members, version=version, replaces=replaces)


# ---------------------------------------------------------------- attributes


def test_what_is_declared_is_read_once(thing):
    declaration = thing.declaration
    assert (declaration.owner, declaration.version, declaration.replaces) == (thing, 1, None)
    assert (declaration.migrates, declaration.is_trusted) == (False, False)
    assert list(declaration.plain) == ["count", "names", "made"]
    assert [make() for make in declaration.defaults.values()] == [3, ["a"], {}, {"b": 1}]
    assert list(declaration.tables) == ["rows"]
    key, row = declaration.tables["rows"]
    assert (key.hint, row.hint, key.where, row.where) == (float, str, "Thing.rows", "Thing.rows")
    with pytest.raises(ValueError, match="not-a-number cannot be a key"):
        key.check(float("nan"))
    assert declaration.decode_rows["rows"](b"\x91\x92\x01\xa1x") == [(1.0, "x")]
    assert [(m.name, m.kind) for m in declaration.methods.values()] == [
        ("add", "command"),
        ("look", "query"),
    ]
    assert [is_table(hint) for hint in (Table, Table[int, str], dict, int)] == [
        True,
        True,
        False,
        False,
    ]


def test_an_instance_has_its_own_state_and_the_class_has_none(thing):
    for name in ("count", "names", "made"):
        assert not hasattr(thing, name)
    assert (thing.limit, thing.bare, thing._hidden) == (9, 8, 1)
    one, other = thing(), thing()
    one.names.append("c")
    assert (one.names, other.names, other.made, other.count) == (["a", "c"], ["a"], {"b": 1}, 3)
    kinds = [type(vars(one)[name]) for name in ("names", "made", "rows")]
    assert kinds == [StateList, StateDict, StateTable]
    assert (one.now, one._events) == (0.0, [])
    assert one.random.random() == Moment(0, "").random.random()


def test_a_default_is_copied_as_it_was_when_the_class_was_made():
    first = [["x"]]
    kind = declare({"deep": first}, deep=list[list[str]])
    first[0].append("y")
    assert kind().deep == [["x", "y"]]
    kind().deep[0].append("z")
    assert kind().deep == [["x", "y"]]
    kind.declaration.defaults["deep"]()[0].append("w")
    assert first == [["x", "y"]]


def test_what_is_inherited_begins_as_it_did_unless_it_is_said_again(thing):
    class More(thing):
        count: int = 4
        extra: Table[str, int]

    assert (More().count, More().names, More().made, More()._hidden) == (4, ["a"], {"b": 1}, 1)
    assert list(More.declaration.tables) == ["rows", "extra"]
    assert thing().count == 3


@pytest.mark.parametrize(
    ("name", "hint", "first", "words"),
    [
        ("count", int, "seven", "its value to begin with: Wrong.count: "),
        ("count", int, 1 << 70, "its value to begin with: Wrong.count: "),
        ("count", str, "\ud800", "its value to begin with: Wrong.count: "),
        ("lock", Socket, None, "Wrong.lock: 'Socket' cannot be encoded"),
        ("rows", Table[str, Socket], None, "Wrong.rows: 'Socket' cannot be encoded"),
        ("rows", Table[Socket, str], None, "Wrong.rows: 'Socket' cannot be encoded"),
        ("rows", Table[str, list[int]], None, "Wrong.rows: the rows of a Table are immutable"),
        (
            "rows",
            Table[tuple[list[int]], int],
            None,
            "Wrong.rows: the rows of a Table are immutable",
        ),
        ("rows", Table[int | None, int], None, "Wrong.rows: the keys of a Table have an order"),
        ("rows", Table, None, "Wrong.rows: say of what"),
        ("listen", int, 1, "Wrong.listen: that name has another meaning"),
        ("count", int, ..., "Wrong.count: give it a value to begin with"),
    ],
)
def test_state_that_replicas_cannot_have_is_refused(name, hint, first, words):
    with pytest.raises(BadDeclaration, match=words):
        declare({} if first is ... or is_table(hint) else {name: first}, **{name: hint})


def test_names_that_begin_with_an_underscore_are_nobodys_business():
    kind = declare({"_events_seen": 0, "_x": [1]}, _x=Socket, _events_seen=int, now=ClassVar[int])
    machine = kind()
    assert list(kind.declaration.defaults) == []
    machine._x = Socket()
    del machine._x
    assert machine._x == [1]
    with pytest.raises(AttributeError):
        del machine._nothing


def test_only_declared_state_can_be_set_and_none_deleted(thing):
    machine = thing()
    machine.count = 5
    machine.twice = 12
    machine.names = ["z"]
    machine.rows |= {1.5: "x"}
    machine._cache = Socket()
    assert (machine.count, machine.names, dict(machine.rows.items())) == (6, ["z"], {1.5: "x"})
    for name, error, words in [
        ("extra", AttributeError, "Thing.extra is not declared: annotate it"),
        ("plain", AttributeError, "Thing.plain is not declared: annotate it"),
        ("rows", TypeError, "Thing.rows is a Table: change its rows"),
        ("count", TypeError, "Thing.count: "),
    ]:
        with pytest.raises(error, match=words):
            setattr(machine, name, {})
    for name in ("count", "rows", "names", "extra"):
        with pytest.raises(AttributeError, match=f"Thing.{name} is state: it cannot be deleted"):
            delattr(machine, name)
    assert (machine.count, machine.plain()) == (6, 5)


def test_what_a_failed_command_set_is_as_it_was(thing):
    machine = thing()
    names, made = machine.names, machine.made

    def change(machine, last):
        machine.count = 7
        machine.names = mine = ["new"]
        machine.made = {"c": 1}
        mine.append(last)  # it is still the command's

    run_whole(machine, change, ("x",))
    assert (machine.count, machine.names, machine.made) == (7, ["new", "x"], {"c": 1})
    assert (type(machine.names), type(machine.made)) == (StateList, StateDict)
    names, made = machine.names, machine.made
    with pytest.raises(TypeError, match=r"Thing.names: "):
        run_whole(machine, change, (8,))
    assert (machine.count, machine.names, machine.made) == (7, ["new", "x"], {"c": 1})
    assert machine.names is names
    assert machine.made is made

    def keep(machine):
        machine.names = machine.names
        machine.count = machine.count
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        run_whole(machine, keep)
    assert machine.names is names


def test_what_is_set_to_what_it_is_stays_the_same_and_is_not_gone_through(thing):
    machine = thing()
    noted = []

    def change(machine):
        machine.names = machine.names
        machine.count = machine.count + 1
        noted.append(len(machine._journal._fresh))
        for n in range(5):  # what is set again and again is gone through once
            machine.made = {"n": n}
            machine.names = [str(n)]
        noted.append(len(machine._journal._fresh))

    run_whole(machine, change)
    assert noted == [0, 2]
    assert (machine.names, machine.made) == (["4"], {"n": 4})
    assert (type(machine.names), type(machine.made)) == (StateList, StateDict)
    names = machine.names
    run_whole(machine, lambda machine: setattr(machine, "names", names))
    assert machine.names is names


def test_another_base_is_told_of_subclasses_too():
    told = []

    class Registered:
        def __init_subclass__(cls, **given):
            told.append(cls.__name__)

    declare(base=StateMachine, name="Alone")
    type("Both", (StateMachine, Registered), {"__module__": __name__})
    assert told == ["Both"]


def test_a_class_that_checks_first_has_plain_tables_and_is_not_watched():
    class Trusted(StateMachine):
        _checks_first = True
        rows: Table[str, int]
        names: dict[str, int] = {}  # noqa: RUF012

    machine = Trusted()
    machine.whatever = 1
    del machine.whatever
    assert type(machine.rows) is Table
    assert Trusted.declaration.is_trusted
    machine.rows["a"] = 1
    assert len(Trusted().rows) == 0


def test_events_are_of_the_type_that_is_declared(thing):
    machine = thing()
    machine.emit(7)
    with pytest.raises(TypeError, match="Thing, an event: "):
        machine.emit("seven")
    assert machine._events == [7]
    assert thing.declaration.decode_event(b"\x08") == 8
    anything = declare()()
    anything.emit(["a", 1])
    assert anything._events == [["a", 1]]
    with pytest.raises(BadDeclaration, match=r"Wrong.event: 'Socket' cannot be encoded"):
        declare({"event": Socket})


# ---------------------------------------------------------------- methods


def test_commands_and_queries_are_called_apart(thing):
    machine = thing()
    add, look = (thing.declaration.methods[name] for name in ("add", "look"))
    for calls, own, others in (
        (thing.declaration.commands, (add, (1, False)), (look, ())),
        (thing.declaration.queries, (look, ()), (add, (1, False))),
    ):
        values, faults = calls.run(machine, encode_calls([own[0]], [own[1]]))
        assert (values, faults) == ([4], {})
        _, faults = calls.run(machine, encode_calls([others[0]], [others[1]]))
        assert faults[0].text == f"Thing has no '{others[0].name}'"
        with pytest.raises(Malformed):
            calls.run(machine, b"junk")


def test_a_subclass_may_take_a_call_back_and_give_it_again(thing):
    class Without(thing):
        add = None

        def look(self) -> int:
            return 1

    class Again(Without):
        @command
        def add(self, n: str) -> str:
            return n

    assert list(Without.declaration.methods) == []
    assert list(Again.declaration.methods) == ["add"]
    assert Again.declaration.methods["add"].returns.hint is str
    assert list(thing.declaration.methods) == ["add", "look"]


@pytest.mark.parametrize("name", ["_secret", "due", "token"])
def test_a_call_has_a_name_of_its_own(name):
    def method(self) -> None: ...

    with pytest.raises(BadDeclaration, match=f"Wrong.{name}: that name has another meaning"):
        declare({name: command(method)})


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize("version", [0, -1, 1.0, True, "1", None])
def test_a_version_is_a_whole_number_from_1(version):
    with pytest.raises(BadDeclaration, match="Wrong: a version is a whole number, from 1"):
        declare(version=version)


@pytest.mark.parametrize("replaces", [StateMachine, int, Socket, object, Socket(), "Thing"])
def test_what_a_version_replaces_is_the_class_of_the_one_before(replaces):
    with pytest.raises(BadDeclaration, match="Wrong: `replaces` names the class of the version"):
        declare(version=2, replaces=replaces)


def test_versions_go_one_by_one_from_any_first_one():
    first = declare(name="First", version=5)
    second = declare(name="Second", version=6, replaces=first)
    assert second.declaration.replaces is first
    assert (first.declaration.version, second.declaration.version) == (5, 6)
    for version in (4, 5, 7):
        words = f"Wrong: version {version} cannot replace First, which is version 5"
        with pytest.raises(BadDeclaration, match=words):
            declare(version=version, replaces=first)


def migrate(self, old):
    """Take over."""


def test_a_migration_is_a_versions_own_or_comes_from_no_version_before():
    mixin = type("Mixin", (), {"migrate": migrate})
    one = declare(name="One")
    two = declare({"migrate": migrate}, one, name="Two", version=2, replaces=one)
    three = declare({}, two, name="Three", version=3, replaces=two)
    four = declare({}, three, name="Four", version=4, replaces=three)
    five = declare({"migrate": migrate}, four, name="Five", version=5, replaces=four)
    helped = type("Helped", (mixin, one), {"__module__": __name__}, version=2, replaces=one)
    unrelated = declare({}, two, name="Unrelated", version=2, replaces=one)
    kinds = [one, two, three, four, five, helped, unrelated]
    found = [kind.declaration.migrates for kind in kinds]
    assert found == [False, True, False, False, True, True, True]


@pytest.mark.parametrize("others", [(str, float), (float, str)])
def test_what_has_another_type_needs_a_migration_and_what_is_new_or_gone_needs_none(others):
    old = declare({"a": others[0](), "gone": 0}, name="Old", a=others[0], gone=int)
    words = f"Wrong.a is {others[1].__name__}, and was {others[0].__name__} in Old: write a `mig"
    with pytest.raises(BadDeclaration, match=words):
        declare({"a": others[1]()}, version=2, replaces=old, a=others[1])
    body = {"a": others[1](), "migrate": migrate}
    assert declare(body, version=2, replaces=old, a=others[1]).declaration.migrates
    same = declare({"a": others[0](), "new": 1}, version=2, replaces=old, a=others[0], new=int)
    assert not same.declaration.migrates


def taking(parameters):
    made = {}
    exec(f"def put(self{parameters}) -> None: ...", made)
    return {"put": command(made["put"])}


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        (", a: int, b: int", ", a: int, b: int, c: int = 0", ""),
        (", a: int, b: int", ", a: int", ""),
        (", a: int, b: int", ", x: int, y: int, a_: int = 1", ""),
        (", a: int, b: int", ", b: int, a: int", "b"),
        (", a: int, b: int", ", x: int, a: int", "a"),
        (", a: int, b: int", ", b: int", "b"),
    ],
)
def test_an_argument_of_two_versions_has_one_place(before, after, moved):
    old = declare(taking(before), name="Old")
    if not moved:
        assert list(declare(taking(after), version=2, replaces=old).declaration.methods) == ["put"]
        return
    words = f"Wrong.put: argument '{moved}' has another place than in Old"
    with pytest.raises(BadDeclaration, match=words):
        declare(taking(after), version=2, replaces=old)


def test_calls_that_only_one_version_has_are_not_compared():
    old = declare(taking(", a: int"), name="Old")
    new = declare({}, version=2, replaces=old)
    assert list(new.declaration.methods) == []


# ---------------------------------------------------------------- moments


def test_a_moment_has_one_generator_that_goes_on():
    moment, other = Moment(5, "seed"), Moment(6, "seed")
    thrown = [moment.random.random() for _ in range(3)]
    assert len(set(thrown)) == 3
    assert thrown == [other.random.random() for _ in range(3)]
    assert thrown[0] != Moment(5, "other").random.random()
    assert (moment.time_ns, other.time_ns) == (5, 6)
