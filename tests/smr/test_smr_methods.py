"""Commands and queries one by one: what may be one, what it takes, and how it is run."""

import asyncio
import functools
from typing import Any, Optional

import msgspec
import pytest

from wormspace.smr import BadDeclaration, StateMachine, command, query
from wormspace.smr.canonical import encode_canonical
from wormspace.smr.methods import MARK, Method, hints_of, is_trusted, run_whole
from wormspace.smr.records import encode


class Bag(StateMachine):
    count: int = 0
    held: list[int] = []  # noqa: RUF012

    @command
    def put(self, amount: int, times: int = 2, *, why: str = "none", more: float = 0.5) -> int:
        """Put some."""
        self.count += amount * times
        self.emit(why)
        if amount < 0:
            raise ValueError("less than nothing")
        return self.count

    @command
    def names(self) -> dict[str, int]:
        return {"b": 1, "a": 2}

    @command
    def wrong(self) -> int:
        self.count += 1
        return "text"  # type: ignore[return-value]

    @command
    def wrong_inside(self) -> list[int]:
        self.count += 1
        return ["text"]  # type: ignore[list-item]

    @command
    def leave(self) -> None:
        self.count += 1
        raise SystemExit(3)

    @command
    def keep(self, value: Any) -> None:
        self.held.append(value)

    @query
    def get(self) -> int:
        return self.count

    @query
    def order(self) -> dict[str, int]:
        return {"b": 1, "a": 2}

    @query
    def meddle(self) -> int:
        self.count += 1
        return self.count


class Trusted(StateMachine):
    _checks_first = True
    count: int = 0

    @command
    def names(self) -> dict[str, int]:
        return {"b": 1, "a": 2}

    @query
    def order(self) -> dict[str, int]:
        return {"b": 1, "a": 2}

    @command
    def add(self) -> int:
        self.count += 1
        return self.count


METHODS = Bag.declaration.methods


# ---------------------------------------------------------------- what may be one


async def later(self) -> None:
    pass


def yields(self):
    yield 1


async def yields_later(self):
    yield 1


@pytest.mark.parametrize(("mark", "kind"), [(command, "command"), (query, "query")])
def test_a_method_runs_to_its_end_at_once(mark, kind):
    for wrong in (later, yields, yields_later):
        with pytest.raises(BadDeclaration, match=f"{wrong.__name__}: a {kind} runs to its end"):
            mark(wrong)
    for wrong in (3, int, functools.partial(print), property(lambda self: 1)):
        with pytest.raises(BadDeclaration, match=f"@{kind} stands before a method"):
            mark(wrong)

    def plain(self) -> None:
        pass

    assert mark(plain) is plain
    assert getattr(plain, MARK) == kind


def taking(function, kind="command"):
    return Method(Bag, function.__name__, function, kind)


def untyped(self, a, b: int) -> None:
    pass


def silent(self, a: int):
    pass


def many(self, *a: int) -> None:
    pass


def named(self, **a: int) -> None:
    pass


def strange(self, a: object) -> None:
    pass


def strange_result(self) -> object:
    pass


def unknown(self, a: "Nowhere") -> None:  # noqa: F821
    pass


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (untyped, r"Bag\.untyped: say the type of argument 'a'"),
        (silent, r"Bag\.silent: say what it returns"),
        (many, r"Bag\.many: no \*args"),
        (named, r"Bag\.named: no \*args or \*\*kwargs"),
        (strange, r"Bag\.strange: argument 'a'"),
        (strange_result, r"Bag\.strange_result: its result"),
        (unknown, r"Bag\.unknown: .*Nowhere.*visible where the module is"),
    ],
)
def test_a_method_says_what_it_takes_and_returns(function, said):
    with pytest.raises(BadDeclaration, match=said):
        taking(function)


def nothing(self) -> None:
    pass


def maybe(self, a: Any) -> Optional[int]:  # noqa: UP045
    return None


def lists(self, a: list[int]) -> list[int]:
    return []


def texts(self, a: dict[str, Any]) -> str | None:
    return ""


def floats(self) -> float:
    return 0.0


def flags(self, a: int) -> tuple[bool, ...]:
    return ()


@pytest.mark.parametrize(
    ("function", "is_plain", "may_nest"),
    [
        (nothing, True, False), (maybe, True, True), (lists, False, False), (texts, True, True),
        (floats, True, False), (flags, False, False),
    ],
)  # fmt: skip
def test_what_can_be_handed_out_as_it_is_and_what_can_be_nested_is_known(
    function, is_plain, may_nest
):
    method = taking(function)
    assert (method.is_plain, method.may_nest) == (is_plain, may_nest)
    assert (method.name, method.kind, method.function) == (function.__name__, "command", function)
    assert method.returns.where == f"Bag.{function.__name__}(), its result"


def test_arguments_travel_in_columns_named_like_them():
    put = METHODS["put"]
    assert [p.name for p in put.parameters] == ["amount", "times", "why", "more"]
    assert put.columns.__struct_fields__ == ("amount", "times", "why", "more")
    assert put.columns.__struct_config__.tag == "put"
    assert (put.columns.__name__, put.columns.__module__) == ("Bag_put", __name__)
    raw = encode(["put", [1, 2], None, ["x", "y"]])
    columns = msgspec.msgpack.decode(raw, type=put.columns)
    assert (columns.amount, columns.times, columns.why, columns.more) == (
        [1, 2],
        None,
        ["x", "y"],
        None,
    )
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(encode(["put", ["x"]]), type=put.columns)
    assert put.takes[0].where == "Bag.put(), argument 'amount'"


# ---------------------------------------------------------------- how it is run


def test_an_argument_is_given_by_position_or_by_name_as_it_is_taken():
    class Crane(StateMachine):
        @command
        def lift(self, amount: int, /, *, by: int) -> int:
            return amount * by

    assert Crane.declaration.methods["lift"].run(Crane(), 3, 2) == 6


def test_a_command_is_run_as_a_whole_or_not_at_all():
    bag = Bag()
    assert METHODS["put"].run(bag, 3, 2, "x", 0.5) == 6
    assert (bag.count, bag._events) == (6, ["x"])
    for name, arguments, error in (
        ("put", (-1, 1, "y", 0.5), ValueError),
        ("wrong", (), TypeError),
        ("wrong_inside", (), TypeError),
        ("leave", (), RuntimeError),
        ("keep", ("no number",), TypeError),
    ):
        with pytest.raises(error):
            METHODS[name].run(bag, *arguments)
        assert (bag.count, bag._events, bag.held) == (6, ["x"], [])
        assert bag._journal.undo is None
    with pytest.raises(TypeError, match=r"Bag\.wrong\(\), its result"):
        METHODS["wrong"].run(bag)
    with pytest.raises(TypeError, match=r"Bag\.wrong_inside\(\), its result"):
        METHODS["wrong_inside"].run(bag)
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        METHODS["leave"].run(bag)
    assert METHODS["put"].run(bag, 1, 1, "z", 0.5) == 7


def test_what_could_be_changed_later_is_returned_encoded():
    bag, trusted = Bag(), Trusted()
    in_order = encode_canonical({"b": 1, "a": 2})
    assert in_order != encode({"b": 1, "a": 2})
    for machine in (bag, trusted):
        methods = machine.declaration.methods
        assert bytes(methods["names"].run(machine)) == in_order
        assert bytes(methods["order"].run(machine)) == encode({"b": 1, "a": 2})
        assert methods["names"].decode(in_order) == {"a": 2, "b": 1}
    assert METHODS["get"].run(bag) == 0
    assert METHODS["names"].call(bag) == {"b": 1, "a": 2}


def test_what_is_plain_is_returned_as_it_is_though_it_takes_more_than_a_glance():
    class Greeter(StateMachine):
        @command
        def greet(self) -> str:
            return "é"

        @command
        def count(self) -> int:
            return True

        @command
        def names(self) -> list[str]:
            return ["é"]

    greeter, methods = Greeter(), Greeter.declaration.methods
    assert methods["greet"].run(greeter) == "é"
    with pytest.raises(TypeError, match=r"Greeter\.count\(\), its result"):
        methods["count"].run(greeter)
    assert bytes(methods["names"].run(greeter)) == encode(["é"])


def test_whose_commands_check_first_is_run_as_it_is():
    assert (is_trusted(Trusted), is_trusted(Bag)) == (True, False)

    class Heir(Trusted):
        pass

    assert not is_trusted(Heir)
    add = Trusted.declaration.methods["add"]
    assert add.run is add.call is Trusted.add
    assert add.run(Trusted()) == 1


def test_a_query_changes_nothing():
    bag = Bag()
    with pytest.raises(TypeError, match=r"meddle\(\) is a query"):
        METHODS["meddle"].run(bag)
    assert bag.count == 0
    bag.count = 5
    assert METHODS["get"].run(bag) == 5


def test_whatever_is_run_as_a_whole_takes_back_what_it_has_done():
    bag = Bag()
    bag.emit("before")

    def change(machine, amount):
        machine.count += amount
        machine.held.append(amount)
        machine.emit("after")
        return machine.count

    def fail(machine, error):
        change(machine, 1)
        raise error

    assert run_whole(bag, change, (4,)) == 4
    assert (bag.held, bag._events, bag._journal.undo) == ([4], ["before", "after"], None)
    for raised, seen in (
        (KeyError("x"), KeyError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(2), RuntimeError),
        (asyncio.CancelledError(), RuntimeError),
        (GeneratorExit(), RuntimeError),
    ):
        with pytest.raises(seen):
            run_whole(bag, fail, (raised,))
        assert (bag.count, bag.held, bag._events) == (4, [4], ["before", "after"])
    assert run_whole(bag, Bag.get) == 4


# ---------------------------------------------------------------- how it is called


def test_a_bound_method_checks_its_arguments_and_sends_them_in_order():
    sent = []
    put = METHODS["put"]
    bound = put.bind(lambda *given: sent.append(given) or "future", "level", "session")
    assert bound(1) == "future"
    bound(1, 3)
    bound(amount=4, more=1, why="y")
    assert sent == [
        (put, (1, 2, "none", 0.5), "level", "session"),
        (put, (1, 3, "none", 0.5), "level", "session"),
        (put, (4, 2, "y", 1.0), "level", "session"),
    ]
    assert (bound.__name__, bound.__doc__) == ("put", "Put some.")
    for given, named in (((), {}), ((1, 2, "x"), {}), ((1,), {"what": 2})):
        with pytest.raises(TypeError):
            bound(*given, **named)
    for given, named in ((("x",), {}), ((True,), {}), ((1,), {"why": 3})):
        with pytest.raises(TypeError, match=r"Bag\.put\(\), argument"):
            bound(*given, **named)
    assert METHODS["names"].bind(lambda *given: given)() == (METHODS["names"], ())


def test_arguments_that_are_missing_have_their_default_and_others_are_what_they_are():
    raws = [msgspec.Raw(encode(one)) for one in (7, 3, "w", 1.5)]
    put = METHODS["put"]
    assert put.decode_arguments(raws) == [7, 3, "w", 1.5]
    assert put.decode_arguments(raws[:1]) == [7, 2, "none", 0.5]
    assert put.decode_arguments([raws[0], None, raws[2]]) == [7, 2, "w", 0.5]
    assert put.decode_arguments([*raws, raws[0]]) == [7, 3, "w", 1.5]
    for missing in ([], [None], [None, raws[1]]):
        with pytest.raises(TypeError, match=r"put\(\) takes an argument 'amount'"):
            put.decode_arguments(missing)
    with pytest.raises(TypeError, match=r"put\(\), argument 'times': Expected `int`"):
        put.decode_arguments([raws[0], raws[2]])
    assert METHODS["put"].call(Bag(), 1, 1, "x", 0.5) == 1


def test_hints_are_those_of_the_module_with_what_is_annotated():
    assert hints_of(lists, "here") == {"a": list[int], "return": list[int]}
    with pytest.raises(BadDeclaration, match="here: name 'Nowhere'"):
        hints_of(unknown, "here")
