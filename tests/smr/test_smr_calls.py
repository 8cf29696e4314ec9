"""Calls by columns: each has its own result, whatever travels with it, and garbage is refused."""

import asyncio
import inspect
import random

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

import wormspace
from wormspace.errors import ProtocolViolation, UsageError
from wormspace.smr import (
    CommandFailed,
    Eventual,
    Linearizable,
    SessionExpired,
    StateMachine,
    Stopped,
    command,
    query,
)
from wormspace.smr.calls import MAX_CALLS, Malformed, as_fault, encode_calls
from wormspace.smr.consistency import Session
from wormspace.smr.engine import Engine
from wormspace.smr.questions import run_queries
from wormspace.smr.records import Batch, Fault, Packet, Reply, decode_plain_outcome
from wormspace.smr.submit import Submitter
from wormspace.space import Address

ENCODE = msgspec.msgpack.encode
BAD_STRING = msgspec.Raw(b"\xa2\xff\xfe")
GUARD_S = 30.0
"""Far longer than anything here takes, and shorter than for ever."""

NOWHERE = float("inf")


class Things(StateMachine):
    total: int = 0
    said: list[str] = []  # noqa: RUF012

    @command
    def count(self) -> int:
        self.total += 1
        return self.total

    @command
    def add(self, amount: int, /, times: int = 1, *, limit: int = 5) -> int:
        if amount == 0:
            raise StopIteration
        if amount < 0:
            raise ValueError(amount, "is negative")
        self.total += amount * times
        if self.total > limit * 10:
            self.total = 0  # what a command did before it raised is undone
            raise OverflowError("over the limit")
        return self.total

    @command
    def say(self, text: str, *, twice: bool = False) -> list[str]:
        if not text:
            raise KeyError(text)
        self.said += [text] * (2 if twice else 1)
        return self.said

    @command
    def hush(self) -> None:
        if not self.said:
            raise StopIteration
        self.said.clear()

    @command
    def exhaust(self, kind: str) -> int:
        kinds = {"memory": MemoryError, "recursion": RecursionError, "exit": SystemExit}
        raise kinds.get(kind, asyncio.CancelledError)("of this process")

    @command
    def gather(self, words: list[str]) -> set[str]:
        return set(words)

    @command
    def gather_wrongly(self, words: list[str]) -> int:
        return set(words)

    @command
    def keep_wrongly(self) -> list[int]:
        return ["a"]

    @command
    def fail_with_words(self) -> None:
        raise ValueError(self.said)

    @command
    def send(self, method: str, __send: int = 3, place: float = NOWHERE) -> str:
        return f"{method}{__send}{place}"

    @query
    def heard(self) -> list[str]:
        if not self.said:
            raise StopIteration
        return self.said

    @query
    def dig(self, depth: int) -> int:
        return self.dig(depth + 1)


METHODS = Things.declaration.methods
run = Things.declaration.commands.run


def encoded(*calls):
    return encode_calls([METHODS[name] for name, *_ in calls], [tuple(rest) for _, *rest in calls])


def results(calls, outcome):
    """What `run` gave, a decoded result or the exception's kind and text for each call."""
    values, faults = outcome
    assert len(values) == len(calls)
    return [
        (faults[index].kind, faults[index].text)
        if index in faults
        else value
        if METHODS[name].is_plain
        else METHODS[name].decode(value)
        for index, ((name, *_), value) in enumerate(zip(calls, values, strict=True))
    ]


def one_by_one(calls, machine):
    """What Python gives when the methods are called; one that raises has changed nothing."""
    found = []
    for name, *arguments in calls:
        total, said = machine.total, list(machine.said)
        function = METHODS[name].function
        bound = dict(zip(inspect.signature(function).parameters, (machine, *arguments)))  # noqa: B905
        kinds = inspect.signature(function).parameters
        by_place = [
            v for k, v in bound.items() if kinds[k].kind is not inspect.Parameter.KEYWORD_ONLY
        ]
        by_name = {
            k: v for k, v in bound.items() if kinds[k].kind is inspect.Parameter.KEYWORD_ONLY
        }
        try:
            result = function(*by_place, **by_name)
            found.append(list(result) if isinstance(result, list) else result)
        except Exception as e:  # noqa: BLE001
            found.append((type(e).__name__, str(e)))
            machine.total, machine.said = total, said
    return found


CALLS = st.lists(
    st.one_of(
        st.just(("count",)),
        st.just(("hush",)),
        st.tuples(st.just("add"), st.integers(-2, 9), st.integers(-3, 3), st.integers(0, 5)),
        st.tuples(st.just("say"), st.text(max_size=2), st.booleans()),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(CALLS)
def test_calls_that_travel_together_are_as_those_made_one_by_one(calls):
    here, there = Things(), Things()
    assert results(calls, run(here, encoded(*calls))) == one_by_one(calls, there)
    assert (here.total, here.said) == (there.total, there.said)


@settings(deadline=None)
@given(CALLS)
def test_one_call_that_is_wrong_leaves_the_others_as_they_were(calls):
    here, there = Things(), Things()
    runs, groups = msgspec.msgpack.decode(encoded(*calls))
    outcome = run(here, ENCODE(([*runs, (len(groups), 1)], [*groups, ("unheard-of",)])))
    wrong = ("TypeError", "Things has no 'unheard-of'")
    assert results([*calls, ("count",)], outcome) == [*one_by_one(calls, there), wrong]
    assert (here.total, here.said) == (there.total, there.said)


def test_calls_of_one_method_are_one_array_for_each_parameter():
    calls = [("say", "a", False), ("say", "b", True), ("count",), ("say", "c", False)]
    assert msgspec.msgpack.decode(encoded(*calls)) == [
        [[0, 2], [1, 1], [0, 1]],
        [["say", ["a", "b", "c"], [False, True, False]], ["count"]],
    ]


@pytest.mark.parametrize(
    "amounts",
    [
        [-1],
        [-1, 2],
        [2, -1],
        [2, -1, 3],
        [-1, -2, -3],
        [1, -1, -2, 3],
        [0],
        [0, 0, 2],
        [2, 0, 3, 0],
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_exceptions_wherever_they_come(amounts, mixed):
    calls = [("add", amount, 1, 5) for amount in amounts]
    if mixed:
        calls = [one for call in calls for one in (("count",), call)]
    machine = Things()
    values, faults = run(machine, encoded(*calls))
    wrong = {n for n, (name, *rest) in enumerate(calls) if name == "add" and rest[0] <= 0}
    assert set(faults) == wrong
    assert [value is None for value in values] == [n in wrong for n in range(len(calls))]
    assert machine.total == sum(amount for amount in amounts if amount > 0) + mixed * len(amounts)


def test_a_command_that_raises_stop_iteration_ends_nothing_but_itself():
    machine = Things()
    values, faults = run(machine, encoded(("add", 0, 1, 5), ("add", 2, 1, 5), ("hush",)))
    assert values == [None, 2, None]
    assert {index: fault.kind for index, fault in faults.items()} == dict.fromkeys(
        (0, 2), "StopIteration"
    )
    values, faults = machine.declaration.queries.run(
        machine, encode_calls([METHODS["heard"]] * 2, [(), ()])
    )
    assert (values, set(faults)) == ([None, None], {0, 1})


def test_what_says_something_about_this_process_is_no_result():
    with pytest.raises(MemoryError):
        run(Things(), encoded(("count",), ("exhaust", "memory")))


class Hungry(StateMachine):
    total: int = 0
    is_short = True

    @command
    def grow(self, amount: int) -> int:
        self.total += amount
        if amount > 1 and Hungry.is_short:
            raise MemoryError("of this process")
        return self.total

    @query
    def read(self) -> int:
        return self.total


async def test_a_replica_without_memory_stops_with_its_own_message_and_goes_on_when_restarted():
    """What others have applied it must not pass over: that would be another state."""
    Hungry.is_short = True
    async with wormspace.connect("memory:") as worm:
        async with await worm.replicate(Hungry, "it", timeout=2.0) as it:
            assert await it.grow(1) == 1
            calls = [it.grow(1), it.grow(5), it.grow(1)]
            before, hungry, after = await asyncio.gather(*calls, return_exceptions=True)
            assert before == 2 or isinstance(before, Stopped)  # it may have gone by itself
            for came in (hungry, after):
                assert isinstance(came, Stopped), came
                assert "has run out of memory at position " in str(came)
                assert " (MemoryError: of this process)" in str(came)
            assert "start the replica again, with more memory" in it.status().failed
            for level in (Linearizable(), Eventual()):
                with pytest.raises(Stopped):
                    await it.at(level).read()
        Hungry.is_short = False
        async with await worm.replicate(Hungry, "it") as it:
            assert await it.read() in (7, 8), "once each, and in order; the last if it was sent"


def test_recursion_without_end_is_a_failed_command_with_the_same_words_everywhere():
    """Python's own words tell how deep it was, which is not the same on all replicas."""
    values, faults = run(Things(), encoded(("count",), ("exhaust", "recursion"), ("count",)))
    assert values == [1, None, 2]
    text = "maximum recursion depth exceeded"
    assert faults[1] == Fault("RecursionError", text, [text])


@pytest.mark.parametrize("kind", ["exit", "cancelled"])
def test_a_command_that_would_end_its_process_or_task_only_fails(kind):
    values, faults = run(Things(), encoded(("count",), ("exhaust", kind), ("count",)))
    assert values == [1, None, 2]
    assert faults[1].kind == "RuntimeError"


# ------------------------------------------------------------ packets that are not as declared

COUNT = ("count",)


@pytest.mark.parametrize(
    ("runs", "groups", "texts"),
    [
        ([(0, 2)], [("add", ["three", 3], [1, 1], [5, 5])], ["add(), argument", 3]),
        ([(0, 2)], [("add", [3, None], [1, 1], [5, 5])], [3, "add(), argument 'amount'"]),
        ([(0, 2)], [("add", [3, 1.5])], [3, "add(), argument"]),
        ([(0, 2)], [("add",)], ["add() takes an argument 'amount'"] * 2),
        ([(0, 1), (1, 1)], [("add", None, [2]), COUNT], ["add() takes an argument 'amount'", 1]),
        ([(0, 1), (1, 1), (0, 1)], [("nobody", [1, 2]), COUNT], ["no 'nobody'", 1, "no 'nobody'"]),
        ([(0, 1), (1, 1)], [("heard",), COUNT], ["no 'heard'", 1]),
        ([(0, 3)], [("add", [1, 2, 3], [1, BAD_STRING, 1])], [1, "add(), argument", 4]),
    ],
)
def test_a_call_that_is_not_what_was_declared_harms_nothing_else(runs, groups, texts):
    values, faults = run(Things(), ENCODE((runs, groups)))
    assert len(values) == len(texts)
    for index, text in enumerate(texts):
        if isinstance(text, int):
            assert (values[index], faults.get(index)) == (text, None)
        else:
            assert faults[index].kind == "TypeError"
            assert text in faults[index].text


def test_a_string_that_is_none_harms_only_its_own_call():
    machine = Things()
    raw = ENCODE(([(0, 3)], [("say", ["a", BAD_STRING, "c"], [False] * 3)]))
    values, faults = run(machine, raw)
    assert (machine.said, values[1], set(faults)) == (["a", "c"], None, {1})
    assert faults[1].kind == "TypeError"
    assert [METHODS["say"].decode(value) for value in values[::2]] == [["a"], ["a", "c"]]


def test_a_parameter_that_an_older_caller_does_not_know_has_its_default():
    for group in (("add", [2, 3]), ("add", [2, 3], None), ("add", [2, 3], None, [5, 5])):
        assert run(Things(), ENCODE(([(0, 2)], [group]))) == ([2, 5], {})
    values, faults = run(Things(), ENCODE(([(0, 2)], [("add", ["x", 3])])))
    assert (values, set(faults)) == ([None, 3], {0}), "where the calls are looked at singly, too"


def test_a_parameter_that_a_newer_caller_knows_is_passed_over():
    group = ("add", [2, 3], [1, 1], [5, 5], ["what", "is this"])
    assert run(Things(), ENCODE(([(0, 2)], [group]))) == ([2, 5], {})


MALFORMED = {
    "garbage": b"garbage",
    "nothing": b"",
    "cut short": encoded(("say", "a", False))[:-1],
    "more behind": encoded(("say", "a", False)) + b"\x00",
    "no array": ENCODE({"runs": []}),
    "no runs": ENCODE((7, [COUNT])),
    "calls as they were before columns": ENCODE([["count"], ["count"]]),
    "no such group": ENCODE(([(1, 1)], [COUNT])),
    "a group before the first": ENCODE(([(-1, 1)], [COUNT])),
    "fewer than no calls": ENCODE(([(0, -1)], [COUNT])),
    "a group far off": ENCODE(([(MAX_CALLS + 1, 1)], [COUNT])),
    "a short column": ENCODE(([(0, 2)], [("add", [1, 2], [1])])),
    "a long column": ENCODE(([(0, 1)], [("add", [1, 2])])),
    "a column of nobody's": ENCODE(([], [("add", [1])])),
    "a short column, and a wrong type": ENCODE(([(0, 2)], [("add", ["x", 2], [1])])),
    "a column that is none": ENCODE(([(0, 1)], [("add", 7)])),
    "a group that is none": ENCODE(([(0, 1)], [7])),
    "a group without a name": ENCODE(([(0, 1)], [()])),
    "a name that is none": ENCODE(([(0, 1)], [(7,)])),
    "a name that is no string": ENCODE(([(0, 1)], [(BAD_STRING,)])),
    "too many in a run": ENCODE(([(0, MAX_CALLS + 1)], [COUNT])),
    "too many in two": ENCODE(([(0, MAX_CALLS), (0, 1)], [COUNT])),
    "too many of nobody's": ENCODE(([(0, MAX_CALLS), (0, 1)], [("nobody",)])),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_packet_is_refused_and_nothing_in_it_runs(raw):
    machine = Things()
    with pytest.raises(Malformed):
        run(machine, raw)
    assert (machine.total, machine.said) == (0, [])
    with pytest.raises(UsageError, match="Things: a malformed question"):
        run_queries(Engine(Things()), raw)


def test_as_many_calls_as_may_travel_together():
    machine = Things()
    values, faults = run(machine, ENCODE(([(0, MAX_CALLS)], [COUNT])))
    assert (len(values), faults, machine.total) == (MAX_CALLS, {}, MAX_CALLS)


@settings(deadline=None)
@given(
    st.binary(max_size=40)
    | st.builds(
        ENCODE,
        st.recursive(
            st.none()
            | st.integers(-2, 3)
            | st.sampled_from(["count", "add", "say"])
            | st.text(max_size=1),
            lambda inner: st.lists(inner, max_size=4),
            max_leaves=20,
        ),
    )
)
def test_whatever_the_bytes_they_are_calls_or_malformed(raw):
    try:
        values, faults = run(Things(), raw)
    except Malformed:
        return
    assert set(faults) <= set(range(len(values)))


@settings(deadline=None)
@given(CALLS, st.data())
def test_a_packet_with_a_byte_changed_is_calls_or_malformed(calls, data):
    raw = bytearray(encoded(*calls))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        values, faults = run(Things(), bytes(raw))
    except Malformed:
        return
    assert set(faults) <= set(range(len(values)))


# ------------------------------------------------------------ through the engine


def apply(engine, *packets):
    applied, _ = engine.apply(ENCODE(Batch(10**9, 7, list(packets))), 64)
    return [decode_plain_outcome(one.outcome) for one in applied]


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_a_client_that_sends_garbage_stops_no_replica(raw):
    one, other = Engine(Things()), Engine(Things())
    for engine in (one, other):
        garbage, good = apply(
            engine, Packet(b"bad", 1, 1, raw), Packet(b"c", 1, 1, encoded(("count",)))
        )
        assert garbage.refused.startswith("its packet is malformed: ")
        assert (garbage.values, garbage.faults) == ([], {})
        assert (good.values, good.refused) == ([1], "")
        again, after = apply(
            engine, Packet(b"bad", 1, 1, raw), Packet(b"bad", 2, 1, encoded(("count",)))
        )
        assert again == garbage
        assert after.values == [2]
    assert one.chain == other.chain


def test_a_result_is_what_it_was_when_the_command_returned():
    calls = [("say", "a", False), ("say", "b", False), ("hush",), ("say", "c", True)]
    (outcome,) = apply(Engine(Things()), Packet(b"c", 1, 1, encoded(*calls)))
    assert outcome.values == [["a"], ["a", "b"], None, ["c", "c"]]


def test_an_exception_is_what_it_was_when_it_was_raised():
    calls = [("say", "a", False), ("fail_with_words",), ("say", "b", False)]
    (outcome,) = apply(Engine(Things()), Packet(b"c", 1, 1, encoded(*calls)))
    assert outcome.faults[1].arguments == [["a"]]


WORDS = [f"word {n}" for n in range(40)]


@pytest.mark.parametrize("name", ["gather", "gather_wrongly"])
def test_sets_are_encoded_alike_whatever_the_order_in_which_they_were_filled(name):
    encodings = set()
    for seed in range(5):
        words = WORDS * 2
        random.Random(seed).shuffle(words)
        engine = Engine(Things())
        raw = encoded((name, words), ("count",), ("add", -1, 1, 5))
        applied, _ = engine.apply(ENCODE(Batch(10**9, 7, [Packet(b"c", 1, 1, raw)])), 64)
        encodings.add((applied[0].outcome, engine.chain))
    ((outcome, _),) = encodings
    values = decode_plain_outcome(outcome).values
    expected = sorted(WORDS) if name == "gather" else None  # it promised something else
    assert values == [expected, 1, None]


def test_the_arguments_of_an_exception_are_alike_too():
    faults = []
    for words in (WORDS, WORDS[::-1]):
        error = ValueError(set(words))
        faults.append(as_fault(error).arguments)
    assert faults == [[sorted(WORDS)]] * 2


# ------------------------------------------------------------ how callers call


def bound(name):
    return METHODS[name].bind(lambda method, arguments, *context: (method, arguments, context), 7)


def test_a_bound_method_takes_what_the_method_takes():
    add = bound("add")
    assert add(1) == (METHODS["add"], (1, 1, 5), (7,))
    assert add(1, limit=3) == (METHODS["add"], (1, 1, 3), (7,))
    assert add(1, times=2) == add(1, 2)
    assert (add.__name__, add.__doc__) == ("add", None)
    assert bound("count")() == (METHODS["count"], (), (7,))
    assert bound("say")("a", twice=True)[1] == ("a", True)


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("add", (), {}),
        ("add", (), {"amount": 1}),
        ("add", (1, 2, 3), {}),
        ("add", (1,), {"what": 1}),
        ("add", (1, 2), {"times": 2}),
        ("count", (1,), {}),
        ("say", ("a", True), {}),
        ("say", (), {"twice": True}),
    ],
)
def test_wrong_arguments_are_what_python_says_of_the_method(name, arguments, named):
    with pytest.raises(TypeError) as expected:
        getattr(Things(), name)(*arguments, **named)
    with pytest.raises(TypeError) as found:
        bound(name)(*arguments, **named)

    def words(error):
        # The method counts itself as an argument.
        text = str(error.value).split("() ")[1].replace("arguments", "argument")
        return [word for word in text.split() if not word.isdigit()]

    assert words(found)[:3] == words(expected)[:3]


def test_parameters_may_have_any_name_and_defaults_any_value():
    send = bound("send")
    assert send("m")[1] == ("m", 3, NOWHERE)
    assert send(method="m", place=1.0)[1] == ("m", 3, 1.0)
    parameters = inspect.signature(send).parameters
    assert [p.default for p in parameters.values()] == [inspect.Parameter.empty, 3, NOWHERE]
    assert run(Things(), encoded(("send", "m", 3, NOWHERE))) == (["m3inf"], {})


# ------------------------------------------------------------ at the caller


async def test_a_result_that_was_not_declared_is_an_error_at_the_caller():
    """Who waited for ever once."""
    async with wormspace.connect("memory:") as worm, await worm.replicate(Things, "things") as it:
        calls = [it.keep_wrongly(), it.count(), it.say("a"), it.gather_wrongly(["a"])]
        async with asyncio.timeout(GUARD_S):
            wrong, count, said, odd = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(wrong, TypeError)
        assert "keep_wrongly(), its result" in str(wrong)
        assert (count, said) == (1, ["a"]), "only its own call has failed"
        assert isinstance(odd, TypeError)
        async with asyncio.timeout(GUARD_S):
            assert await it.count() == 2
            assert it.status().failed == ""


async def test_an_exception_that_no_future_can_have_is_said_in_another():
    async with wormspace.connect("memory:") as worm, await worm.replicate(Things, "things") as it:
        async with asyncio.timeout(GUARD_S):
            calls = [it.count(), it.add(0), it.heard(), it.count()]
            one, failed, asked, two = await asyncio.gather(*calls, return_exceptions=True)
        assert (one, two) == (1, 2)
        for error in (failed, asked):
            assert (type(error), error.kind) == (CommandFailed, "StopIteration")


async def test_a_query_that_exhausts_this_process_stops_no_replica():
    async with wormspace.connect("memory:") as worm, await worm.replicate(Things, "things") as it:
        for view in (it, it.at(Eventual())):
            async with asyncio.timeout(GUARD_S):
                with pytest.raises(RecursionError):
                    await view.dig(0)
                assert await it.count() > 0
        assert it.status().failed == ""


class Odd(StateMachine):
    @query
    def large(self) -> int:
        return 2**70

    @query
    def strange(self) -> int:
        return object()

    @query
    def fine(self) -> int:
        return 7


async def test_a_query_whose_result_cannot_be_encoded_fails_alone():
    async with wormspace.connect("memory:") as worm, await worm.replicate(Odd, "odd") as it:
        async with asyncio.timeout(20):
            calls = [it.large(), it.fine(), it.strange(), it.fine()]
            results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [OverflowError, int, TypeError, int]
    assert results[1] == results[3] == 7


@pytest.mark.parametrize(
    "answer", [b"", b"garbage", ENCODE(7), ENCODE([[1, 2, 3]]), ENCODE([[1, 2], {2: ["E", ""]}])]
)
async def test_an_answer_that_is_none_is_an_error_at_the_caller(answer):
    async def carry(packet, deadline):
        return Reply(answer, Address(0, 1))

    submitter = Submitter(Things.declaration, 60.0, random.Random(1), carry)
    for name, arguments in (("count", ()), ("say", ("a", False))):
        calls = [submitter.add(METHODS[name], arguments, Session()) for _ in range(2)]
        async with asyncio.timeout(GUARD_S):
            found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in found] == [ProtocolViolation] * 2
    await submitter.close()


async def test_a_packet_that_was_refused_is_an_error_at_the_caller():
    engine = Engine(Things())

    async def carry(packet, deadline):
        damaged = Packet(packet.client, packet.number, packet.low, packet.commands[:-1])
        applied, _ = engine.apply(ENCODE(Batch(10**9, 7, [damaged])), 64)
        return Reply(applied[0].outcome, engine.position)

    submitter = Submitter(Things.declaration, 60.0, random.Random(1), carry)
    async with asyncio.timeout(GUARD_S):
        with pytest.raises(SessionExpired, match="malformed"):
            await submitter.add(METHODS["count"], (), Session())
    await submitter.close()
