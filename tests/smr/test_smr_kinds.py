"""Types of the state: which can be encoded, which are immutable, how they show in a shape."""

import dataclasses
import datetime
import enum
import typing
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional
from uuid import UUID

import msgspec
import pytest

from wormspace.smr import BadDeclaration
from wormspace.smr.encodable import check_comparable, check_encodable, may_nest, members
from wormspace.smr.kinds import INT_MAX, INT_MIN, Kind, Normal, bare_type, describe, is_immutable
from wormspace.smr.nesting import MAX_NESTING

NAN = float("nan")


class Point(msgspec.Struct, frozen=True, order=True):
    x: int
    y: float = 0.0


class Loose(msgspec.Struct):
    x: int


class Holder(msgspec.Struct, frozen=True):
    inside: list[int]


class Chain(msgspec.Struct, frozen=True):
    value: int
    rest: Optional["Chain"] = None


class Tree(msgspec.Struct, frozen=True, order=True):
    children: tuple["Tree", ...]


class Unordered(msgspec.Struct, frozen=True):
    x: int


class Torn(msgspec.Struct, frozen=True, order=True):
    x: int
    y: str | None = None


@dataclasses.dataclass(frozen=True)
class Data:
    x: int


@dataclasses.dataclass
class LooseData:
    x: int


class Pair(NamedTuple):
    x: int
    y: str


class ListPair(NamedTuple):
    x: list[int]


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Typed(typing.TypedDict):
    x: int


class Tagged(msgspec.Struct, tag=0, array_like=True):
    x: int


class Socket:
    def __repr__(self) -> str:
        return "Socket()"


Name = NewType("Name", str)
AtLeast = Annotated[int, msgspec.Meta(ge=0)]

# ---------------------------------------------------------------- immutable or not

IMMUTABLE = [
    *(None, bool, int, float, str, bytes, Colour, Literal["a", 1], UUID, Name, AtLeast),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
    *(tuple[int, str], tuple[Point, ...], frozenset[int], int | str, Point | None),
    *(Point, Chain, Tree, Data, Pair, tuple[()], frozenset[tuple[Data, Pair]]),
]
MUTABLE = [
    *(list[int], dict[str, int], set[int], Any, bytearray, Loose, Holder, LooseData, ListPair),
    *(tuple[int, list[int]], tuple[Loose, ...], frozenset[Holder], int | list[int], Typed),
    *(Loose | None, tuple[Any, ...], msgspec.Raw),
]


@pytest.mark.parametrize("hint", IMMUTABLE, ids=str)
def test_what_cannot_be_changed_is_a_value(hint):
    assert is_immutable(msgspec.inspect.type_info(hint))
    kind = Kind(hint, "it")
    assert (kind.is_value, kind.container, kind.key, kind.item) == (True, None, None, None)
    assert kind.of(["anything"]) is kind


@pytest.mark.parametrize("hint", MUTABLE, ids=str)
def test_what_can_be_changed_is_none(hint):
    assert not is_immutable(msgspec.inspect.type_info(hint))


@pytest.mark.parametrize(
    "hint", [Loose, Holder, LooseData, ListPair, tuple[list[int]], bytearray, Typed], ids=str
)
def test_what_can_be_changed_unseen_is_refused_wherever_it_is(hint):
    for where in (hint, dict[str, hint], list[hint], hint | None, list[dict[str, hint]]):
        with pytest.raises(BadDeclaration, match=r"^the place: .* can be changed in place"):
            Kind(where, "the place")


# ---------------------------------------------------------------- containers


@pytest.mark.parametrize(
    ("hint", "container", "key", "item"),
    [
        (dict[str, int], dict, str, int),
        (dict, dict, Any, Any),
        (dict[float, list[str]], dict, float, list[str]),
        (list[bytes], list, None, bytes),
        (list, list, None, Any),
        (set[float], set, None, float),
        (Annotated[list[int], msgspec.Meta(max_length=2)], list, None, int),
    ],
    ids=str,
)
def test_of_a_container_the_kinds_of_what_is_in_it_are_known(hint, container, key, item):
    kind = Kind(hint, "it")
    assert (kind.container, kind.is_value) == (container, False)
    assert (None if kind.key is None else kind.key.hint) == key
    assert (kind.item.hint, kind.item.where) == (item, "it")
    assert kind.of(container()) is kind
    one = msgspec.msgpack.encode([["a", ["b"]]] if container is dict else [])
    if hint in (dict, dict[float, list[str]]):
        one = msgspec.msgpack.encode([[1.5, ["b"]]])
        assert kind.decode_items(one) == [(1.5, ["b"])]
    if hint == dict[str, int]:
        with pytest.raises(msgspec.ValidationError):
            kind.decode_items(one)
    if container is not dict:
        some = [] if item is bytes else [item() if item in (int, float) else "x"]
        assert kind.decode_items(msgspec.msgpack.encode(some)) == some


def test_keys_and_members_are_kept_as_they_come_back_and_not_a_number_is_none():
    for kind in (Kind(dict[float, int], "it").key, Kind(set[float], "it").item):
        assert repr(kind.check(1)) == "1.0"
        with pytest.raises(ValueError, match=r"^it: not-a-number cannot be a key"):
            kind.check(NAN)
    pairs = Kind(dict[tuple[float, ...], int], "it").key
    assert repr(pairs.check((1, 2.5))) == "(1.0, 2.5)"
    deep = Kind(dict[tuple[int, tuple[float, str]], int], "it").key
    assert deep.check((1, (2.0, "x"))) == (1, (2.0, "x"))
    for kind, key in ((pairs, (1.0, NAN)), (deep, (1, (NAN, "x")))):
        with pytest.raises(ValueError, match="not-a-number"):
            kind.check(key)
    assert repr(Kind(float, "it").check(NAN)) == repr(Kind(list[float], "it").item.check(NAN))
    for hint in (int, str, bytes, bool):
        kind = Kind(dict[hint, int], "it").key
        assert kind.check != kind._check_key, "no key of these can be not-a-number"
        assert kind.check(hint()) == hint()


def test_in_a_union_the_kind_is_that_of_the_value():
    kind = Kind(dict[str, int] | list[float] | None | int, "it")
    assert (kind.container, kind.is_value) == (None, False)
    found = {type(value): kind.of(value).hint for value in ({}, [], 1, None)}
    assert found == {dict: dict[str, int], list: list[float], int: kind.hint, type(None): kind.hint}
    anything = Kind(Any, "it")
    found = [anything.of(value).hint for value in ({}, [], set(), (1,), "x")]
    assert found == [dict[Any, Any], list[Any], set[Any], Any, Any]
    assert anything.of({}).where == "what was put into the state"


# ---------------------------------------------------------------- values as they come back


@pytest.mark.parametrize(
    ("hint", "value", "comes_back"),
    [
        (int, 7, 7),
        (int, INT_MIN, INT_MIN),
        (int, INT_MAX, INT_MAX),
        (float, 3, 3.0),
        (float, 2.5, 2.5),
        (str, "é\u20ac", "é\u20ac"),
        (str, "ascii", "ascii"),
        (bytes, b"x", b"x"),
        (bool, True, True),
        (None, None, None),
        (str | None, None, None),
        (int | float, 3, 3),
        (AtLeast, 0, 0),
        (Name, "n", "n"),
        (tuple[int, ...], [1, 2], (1, 2)),
        (Point, Point(1, 2), Point(1, 2.0)),
        (Any, (1, (2,)), [1, [2]]),
        (Point | int, 4, 4),
    ],
    ids=str,
)
def test_a_value_of_its_type_comes_back_as_what_it_is(hint, value, comes_back):
    for checked in (Normal(hint, "it").check(value), Kind(hint, "it").normal(value)):
        assert (checked, type(checked)) == (comes_back, type(comes_back))


@pytest.mark.parametrize(
    ("hint", "value", "error"),
    [
        (int, "7", TypeError),
        (int, 7.5, TypeError),
        (int, True, TypeError),
        (int, INT_MAX + 1, OverflowError),
        (int, INT_MIN - 1, OverflowError),
        (str, b"x", TypeError),
        (str, "\ud800", ValueError),
        (bytes, 3, TypeError),
        (bool, 1, TypeError),
        (None, 0, TypeError),
        (str | None, 1, TypeError),
        (AtLeast, -1, TypeError),
        (float, "x", TypeError),
        (Any, Socket(), TypeError),
        (Point, (1, "x"), TypeError),
    ],
    ids=str,
)
def test_a_value_that_is_not_is_refused_and_the_place_is_named(hint, value, error):
    with pytest.raises(error, match=r"^the place: ") as found:
        Normal(hint, "the place").check(value)
    assert type(found.value) is error


def test_values_are_nested_so_deep_and_no_deeper():
    def nested(depth):
        value = 1
        for _ in range(depth):
            value = [value]
        return value

    kind = Normal(Any, "it")
    assert kind.normal(nested(MAX_NESTING)) == nested(MAX_NESTING)
    with pytest.raises(TypeError, match=f"^it: values are nested more than {MAX_NESTING} deep"):
        kind.normal(nested(MAX_NESTING + 1))


class Subclass(int):
    pass


@pytest.mark.parametrize("value", [7, "x", b"x", 1.5, True, None], ids=repr)
def test_a_glance_shows_that_nothing_needs_to_be_done(value):
    kind = Normal(type(value) if value is not None else None, "it")
    assert kind.check(value) is value
    for others in (int | str | float | bool | None, int | bytes | float | bool | None):
        if value is None or type(value) in typing.get_args(others):
            assert Normal(others, "it").check(value) is value
    with pytest.raises(TypeError, match="it: Encoding objects of type Subclass is unsupported"):
        Normal(int, "it").check(Subclass(3))
    assert Normal(list[int], "it").glance == Normal(AtLeast, "it").glance == "False"
    assert Normal(list[int] | dict[str, int] | None, "it").glance == "({0} is None)"
    assert Normal(tuple[int] | Point, "it").glance == "False"


# ---------------------------------------------------------------- types in words


def test_a_bare_type_is_without_its_names_and_bounds():
    Numbers = typing.TypeVar("Numbers")
    alias = type("Alias", (), {})()
    alias.__value__ = Annotated[int, msgspec.Meta(ge=0)]
    for hint, bare in [
        (None, type(None)),
        (int, int),
        (AtLeast, int),
        (Name, str),
        (NewType("Other", AtLeast), int),  # type: ignore[valid-newtype]
        (alias, int),
        (Annotated[Name, "note"], str),
        (list[int], list[int]),
        (Numbers, Numbers),
        (type("Typed", (), {"__value__": 3}), None),
    ]:
        assert bare_type(hint) is (hint if bare is None else bare) or bare_type(hint) == bare


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "int"),
        (None, "none"),
        (AtLeast, "int(ge=0)"),
        (Annotated[str, msgspec.Meta(max_length=3)], "str(max_length=3)"),
        (Annotated[datetime.datetime, msgspec.Meta(tz=False)], "datetime(tz=False)"),
        (datetime.datetime, "datetime"),
        (list[int], "list(int)"),
        (dict[str, list[int]], "dict(str, list(int))"),
        (tuple[int, str], "tuple(int, str)"),
        (int | None, "union(int, none)"),
        (Literal["a", "b"], "literal('a', 'b')"),
        (Colour, "Colour('b', 'r')"),
        (Point, "Point(x: int, y: float)"),
        (Chain, "Chain(value: int, rest: union(Chain, none))"),
        (Data, "Data(x: int)"),
        (
            dict[str, Chain] | int,
            "union(dict(str, Chain(value: int, rest: union(Chain, none))), int)",
        ),
        (Tagged, "Tagged(x: int, tag_field='type', tag=0, array_like=True)"),
    ],
    ids=str,
)
def test_a_type_is_said_in_words(hint, words):
    said = describe(msgspec.inspect.type_info(hint))
    assert said == words


def test_what_is_encoded_alike_is_said_alike_and_else_is_not():
    renamed = msgspec.defstruct("Point", [("x", int), ("y", float, 0.0)], frozen=True)
    other = msgspec.defstruct("Point", [("x", int), ("z", float, 0.0)], frozen=True)
    said = [describe(msgspec.inspect.type_info(hint)) for hint in (Point, renamed, other)]
    assert said[0] == said[1] != said[2]


# ---------------------------------------------------------------- what can be a key, or travel


@pytest.mark.parametrize(
    ("hint", "is_good"),
    [
        *((one, True) for one in (int, float, bool, str, bytes, int | float | bool, AtLeast)),
        *((one, True) for one in (tuple[int, ...], tuple[int, str], tuple[tuple[str], int], Point)),
        *((one, False) for one in (None, int | str, str | bytes, int | None, Unordered, list[int])),
        *((one, False) for one in (Torn, tuple[int | str], tuple[None, ...], Colour, Data, object)),
        *((one, False) for one in (Point | int, tuple[int] | tuple[str], Annotated[list[int], 1])),
    ],
    ids=str,
)
def test_keys_that_have_an_order(hint, is_good):
    if is_good:
        check_comparable(hint, "it")
        return
    with pytest.raises(BadDeclaration, match=r"^it: the keys of a Table have an order: "):
        check_comparable(hint, "it")


def test_the_alternatives_of_a_type():
    either = typing.Union[int, str]  # noqa: UP007 - as it was written before
    assert members(either) == members(int | str) == (int, str)
    assert members(Annotated[int | None, 1]) == (int, type(None))
    assert (members(None), members(list[int])) == ((type(None),), (list[int],))


class Both(msgspec.Struct):
    left: "Both | None"
    right: list[Socket]


class Missing(msgspec.Struct):
    x: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class Fine(msgspec.Struct):
    left: "Fine | None"
    right: list[Point]


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        *((one, "'Socket'") for one in (Socket, list[Socket], dict[str, tuple[int, Socket]], Both)),
        *((one, "'Socket'") for one in (Socket | None, tuple[Socket, int], dict[Socket, int])),
        (dict[str, "Nowhere"], "'dict'"),  # type: ignore[name-defined]  # noqa: F821
        (list[int] | tuple[int], ""),
        (Missing, "'Missing'"),
        *((one, None) for one in (int, Fine, list[Fine], Any, msgspec.Raw, Data, Pair, Colour)),
        *((one, None) for one in (tuple[int, str], Typed, dict[str, list[Chain]], None)),
    ],
    ids=str,
)
def test_what_cannot_be_encoded_is_named(hint, name):
    if name is None:
        check_encodable(hint, "the place")
        return
    with pytest.raises(BadDeclaration) as found:
        check_encodable(hint, "the place")
    assert str(found.value).startswith(f"the place: {name}")
    assert "cannot be encoded: " in str(found.value)


@pytest.mark.parametrize(
    ("hint", "is_open"),
    [
        *((one, True) for one in (Any, list, dict, msgspec.Raw, list[Any], dict[str, Any], Chain)),
        *((one, True) for one in (Tree, list[Tree], tuple[int, Any], Fine, Any | None)),
        *((one, False) for one in (int, None, Point, list[Point], dict[str, list[int]], Data)),
        *((one, False) for one in (tuple[Point, Point], tuple[int, ...], Colour, Typed)),
    ],
    ids=str,
)
def test_what_can_be_nested_to_any_depth(hint, is_open):
    assert may_nest(hint) == is_open
