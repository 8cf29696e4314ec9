"""Declarations: what is written down becomes calls and state; what cannot be is refused."""

import threading
from typing import Annotated, Any, Literal

import msgspec
import pytest

import wormspace
from wormspace.errors import UsageError
from wormspace.smr import BadDeclaration, StateMachine, Table, command, query
from wormspace.smr.calls import encode_calls


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int


class Socket:
    pass


class Mutable(msgspec.Struct):
    x: int


class Shapes(StateMachine):
    corners: dict[str, list[Point]] = {}  # noqa: RUF012
    names: Table[str, Point]
    count: int = 0
    _cache: dict[str, int] = {}  # noqa: RUF012

    @command
    def add(self, name: str, point: Point, *, twice: bool = False) -> int:
        self.corners.setdefault(name, []).extend([point] * (2 if twice else 1))
        self.count += 1
        return self.count

    @query
    def of(self, name: str) -> list[Point]:
        return self.corners[name]


def test_commands_and_queries_are_bound_with_defaults_and_travel():
    declaration = Shapes.declaration
    assert set(declaration.methods) == {"add", "of"}
    add = declaration.methods["add"].bind(lambda method, arguments: (method, arguments))
    method, arguments = add("a", Point(1, 2))
    assert arguments == ("a", Point(1, 2), False)
    shapes = Shapes()
    assert declaration.commands.run(shapes, encode_calls([method], [arguments])) == ([1], {})
    assert shapes.corners == {"a": [Point(1, 2)]}


def test_instances_do_not_share_mutable_defaults():
    one, other = Shapes(), Shapes()
    one.corners["a"] = []
    assert other.corners == {}


def test_state_is_what_is_annotated_and_public():
    assert set(Shapes.declaration.plain) == {"corners", "count"}
    assert set(Shapes.declaration.tables) == {"names"}


def test_a_subclass_inherits_state_and_commands_and_may_change_them():
    class More(Shapes):
        size: int = 7

        @command
        def grow(self) -> int:
            self.size += 1
            return self.size

    assert {"add", "of", "grow"} == set(More.declaration.methods)
    assert More().size == 7
    assert More().corners == {}


def declare(body, **annotations):
    return type(
        "Wrong", (StateMachine,), {**body, "__annotations__": annotations, "__module__": __name__}
    )


def wrong_argument(self, lock: threading.Lock) -> None: ...
def wrong_nested(self, locks: dict[str, list[Socket]]) -> None: ...
def wrong_result(self) -> threading.Lock: ...
def no_type(self, thing) -> None: ...
def no_result(self, thing: int): ...
def any_number(self, *things: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (wrong_argument, "argument 'lock': '.*lock' cannot be encoded"),
        (wrong_nested, "argument 'locks': 'Socket' cannot be encoded"),
        (wrong_result, "its result"),
        (no_type, "say the type of argument 'thing'"),
        (no_result, "say what it returns"),
        (any_number, "no .args"),
    ],
)
def test_what_cannot_be_encoded_is_refused_when_the_class_is_created(function, words):
    with pytest.raises(BadDeclaration, match=words) as refused:
        declare({"method": command(function)})
    assert "Wrong.method" in str(refused.value)
    assert isinstance(refused.value, UsageError)


def test_state_that_cannot_be_encoded_or_has_no_beginning_is_refused():
    with pytest.raises(BadDeclaration, match=r"Wrong.lock.*cannot be encoded"):
        declare({"lock": None}, lock=threading.Lock)
    with pytest.raises(BadDeclaration, match="give it a value to begin with"):
        declare({}, count=int)


def test_rows_of_a_table_must_be_immutable():
    for wrong in (list[int], dict[str, int], Mutable):
        with pytest.raises(BadDeclaration, match="immutable"):
            declare({}, rows=Table[str, wrong])
    declare({}, rows=Table[tuple[int, str], Point | None])
    with pytest.raises(BadDeclaration, match="say of what"):
        declare({}, rows=Table)


def test_dictionaries_that_replicas_can_compare():
    declare({"rows": {}}, rows=dict[str, dict[Literal["a", "b"], list[dict[str, int]]]])


class Place(msgspec.Struct, frozen=True, order=True):
    street: str
    number: int | float


class Anywhere(msgspec.Struct, frozen=True, order=True):
    street: str | None


@pytest.mark.parametrize(
    "key", [int | str, str | None, int | bytes, None, tuple[int, str | None], Point, Anywhere]
)
def test_keys_of_a_table_that_cannot_be_compared_are_refused(key):
    with pytest.raises(BadDeclaration, match=r"Wrong.rows: the keys of a Table have an order"):
        declare({}, rows=Table[key, int])


@pytest.mark.parametrize(
    "key",
    [
        *(int, int | float, str, bytes, tuple[str, ...], tuple[int, tuple[str, bytes]], Place),
        Annotated[int, msgspec.Meta(ge=0)],
    ],
)
def test_keys_of_a_table_that_can_be_compared(key):
    assert set(declare({}, rows=Table[key, int]).declaration.tables) == {"rows"}


@pytest.mark.parametrize("name", ["declaration", "event"])
def test_an_attribute_whose_name_the_class_needs_is_refused(name):
    with pytest.raises(BadDeclaration, match="another meaning"):
        declare({name: 0}, **{name: int})


class Payments(StateMachine):
    paid: int = 0

    @command
    def pay(self, amount: int, method: str) -> str:
        self.paid += amount
        return f"{amount} by {method}"


async def test_an_argument_may_have_any_name():
    async with (
        wormspace.connect("memory:") as worm,
        await worm.replicate(Payments, "payments") as replica,
    ):
        assert await replica.call(Payments.pay, 3, method="card") == "3 by card"


def test_a_name_that_means_something_on_a_replica_is_refused():
    def close(self) -> None: ...

    with pytest.raises(BadDeclaration, match="another meaning"):
        declare({"close": command(close)})


def test_a_type_that_cannot_be_seen_from_the_module_is_refused():
    def method(self, thing: "Nowhere") -> None: ...  # noqa: F821

    with pytest.raises(BadDeclaration, match="Nowhere"):
        declare({"method": command(method)})


def test_anything_goes_as_any_and_is_checked_when_it_is_sent():
    def method(self, thing: Any) -> Any: ...

    declare({"method": command(method)})
