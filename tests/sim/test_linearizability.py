"""The checker against histories known to be good and bad, and against brute force."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sequential_objects import (
    AppendOnlyLog,
    CasRegister,
    Counter,
    FifoQueue,
    KeyValueStore,
    WriteOnceRegisters,
)
from wormspace.sim.linearizability import UNKNOWN, History, Operation, Outcome, check


def op(called, returned, asked, output):
    return Operation(f"c{called}", asked, UNKNOWN if returned is None else output, called, returned)


WRITE_1, WRITE_2, READ = ("write", "r", 1), ("write", "r", 2), ("read", "r")

GOOD = {
    "nothing at all": (WriteOnceRegisters(), []),
    "a write, then reads": (
        WriteOnceRegisters(),
        [op(1, 2, WRITE_1, "ok"), op(3, 4, READ, 1), op(5, 6, READ, 1)],
    ),
    "a read overlapping the write may see either": (
        WriteOnceRegisters(),
        [op(1, 6, WRITE_1, "ok"), op(2, 3, READ, None), op(4, 5, READ, 1)],
    ),
    "of two racing writers one wins": (
        WriteOnceRegisters(),
        [op(1, 4, WRITE_1, ("lost", 2)), op(2, 5, WRITE_2, "ok"), op(6, 7, READ, 2)],
    ),
    "a replayed write is no second write": (
        WriteOnceRegisters(),
        [op(1, 2, WRITE_1, "ok"), op(3, 4, WRITE_1, "ok")],
    ),
    "a write of unknown outcome takes effect late": (
        WriteOnceRegisters(),
        [op(1, None, WRITE_1, None), op(2, 3, READ, None), op(4, 5, READ, 1)],
    ),
    "a write of unknown outcome never takes effect": (
        WriteOnceRegisters(),
        [op(1, None, WRITE_1, None), op(2, 3, WRITE_2, "ok"), op(4, 5, READ, 2)],
    ),
    "registers do not influence each other": (
        WriteOnceRegisters(),
        [op(1, 2, WRITE_1, "ok"), op(3, 4, ("read", "other"), None)],
    ),
    "compare-and-set, one of two": (
        CasRegister(0),
        [op(1, 3, ("cas", 0, 1), True), op(2, 4, ("cas", 0, 2), False), op(5, 6, ("read",), 1)],
    ),
    "a cas of unknown outcome explains a later value": (
        CasRegister(0),
        [op(1, None, ("cas", 0, 1), None), op(2, 3, ("cas", 1, 2), True)],
    ),
    "keys and values": (
        KeyValueStore(),
        [
            op(1, 2, ("put", "k", "a"), "ok"),
            op(3, 6, ("append", "k", "b"), "ok"),
            op(4, 5, ("get", "k"), "a"),
            op(7, 8, ("get", "k"), "ab"),
            op(9, 10, ("delete", "k"), "ok"),
            op(11, 12, ("get", "k"), None),
            op(13, 14, ("cas", "k", None, "z"), True),
        ],
    ),
    "racing enqueues come out in either order": (
        FifoQueue(),
        [
            op(1, 4, ("enqueue", "a"), "ok"),
            op(2, 3, ("enqueue", "b"), "ok"),
            op(5, 6, ("dequeue",), "b"),
            op(7, 8, ("dequeue",), "a"),
            op(9, 10, ("dequeue",), None),
        ],
    ),
    "racing additions": (
        Counter(),
        [op(1, 4, ("add", 2), 5), op(2, 3, ("add", 3), 3), op(5, 6, ("read",), 5)],
    ),
    "racing appends": (
        AppendOnlyLog(),
        [
            op(1, 4, ("append", "a"), 1),
            op(2, 5, ("append", "b"), 0),
            op(3, 6, ("tail",), 1),
            op(7, 8, ("read", 0), "b"),
            op(9, 10, ("read", 2), None),
        ],
    ),
}

BAD = {
    "a read of empty after a completed write": (
        WriteOnceRegisters(),
        [op(1, 2, WRITE_1, "ok"), op(3, 4, READ, None)],
    ),
    "a read of empty after a read of the value": (
        WriteOnceRegisters(),
        [op(1, 8, WRITE_1, "ok"), op(2, 3, READ, 1), op(4, 5, READ, None)],
    ),
    "two values for one write-once register": (
        WriteOnceRegisters(),
        [op(1, 4, WRITE_1, "ok"), op(2, 5, WRITE_2, "ok")],
    ),
    "two values read": (
        WriteOnceRegisters(),
        [
            op(1, None, WRITE_1, None),
            op(2, None, WRITE_2, None),
            op(3, 4, READ, 1),
            op(5, 6, READ, 2),
        ],
    ),
    "a value nobody wrote": (
        WriteOnceRegisters(),
        [op(1, 2, WRITE_1, "ok"), op(3, 4, READ, 3)],
    ),
    "a value read before it was written": (
        WriteOnceRegisters(),
        [op(1, 2, READ, 1), op(3, 4, WRITE_1, "ok")],
    ),
    "a write that lost to nobody": (
        WriteOnceRegisters(),
        [op(1, 2, WRITE_1, ("lost", 2)), op(3, 4, WRITE_2, "ok")],
    ),
    "a stale read": (
        CasRegister(0),
        [op(1, 2, ("write", 1), "ok"), op(3, 4, ("write", 2), "ok"), op(5, 6, ("read",), 1)],
    ),
    "two winners of one compare-and-set": (
        CasRegister(0),
        [op(1, 3, ("cas", 0, 1), True), op(2, 4, ("cas", 0, 2), True)],
    ),
    "a lost update": (
        Counter(),
        [op(1, 4, ("add", 1), 1), op(2, 3, ("add", 1), 1)],
    ),
    "a lost update seen by a read": (
        Counter(),
        [op(1, 2, ("add", 1), 1), op(3, 4, ("add", 1), 2), op(5, 6, ("read",), 1)],
    ),
    "a value come back after delete": (
        KeyValueStore(),
        [
            op(1, 2, ("put", "k", "a"), "ok"),
            op(3, 4, ("delete", "k"), "ok"),
            op(5, 6, ("get", "k"), "a"),
        ],
    ),
    "an append applied twice": (
        KeyValueStore(),
        [op(1, 2, ("append", "k", "a"), "ok"), op(3, 4, ("get", "k"), "aa")],
    ),
    "a dequeue out of order": (
        FifoQueue(),
        [
            op(1, 2, ("enqueue", "a"), "ok"),
            op(3, 4, ("enqueue", "b"), "ok"),
            op(5, 6, ("dequeue",), "b"),
        ],
    ),
    "an item dequeued twice": (
        FifoQueue(),
        [
            op(1, 2, ("enqueue", "a"), "ok"),
            op(3, 5, ("dequeue",), "a"),
            op(4, 6, ("dequeue",), "a"),
        ],
    ),
    "an empty queue after an enqueue": (
        FifoQueue(),
        [op(1, 2, ("enqueue", "a"), "ok"), op(3, 4, ("dequeue",), None)],
    ),
    "two entries at one position": (
        AppendOnlyLog(),
        [op(1, 3, ("append", "a"), 0), op(2, 4, ("append", "b"), 0)],
    ),
    "a hole in the log": (
        AppendOnlyLog(),
        [op(1, 2, ("append", "a"), 0), op(3, 4, ("append", "b"), 2)],
    ),
    "a shrinking log": (
        AppendOnlyLog(),
        [op(1, 2, ("append", "a"), 0), op(3, 4, ("tail",), 0)],
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_is_accepted(name):
    assert check(*GOOD[name]).outcome is Outcome.OK


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_rejected_and_explained(name):
    verdict = check(*BAD[name])
    assert verdict.outcome is Outcome.VIOLATION
    assert "none of these can come next" in verdict.explanation
    assert verdict.misfits


def test_the_explanation_is_cut_to_what_matters():
    history = [op(4 * n + 1, 4 * n + 2, ("add", 1), n + 1) for n in range(30)]
    history[9] = op(37, 38, ("read",), 4)
    verdict = check(Counter(), history)
    assert verdict.linearization == tuple(history[:9])
    assert verdict.misfits == (history[9],)
    assert "by time 38, after 10 operations" in verdict.explanation
    assert "leads to the state 9" in verdict.explanation
    assert "[37 .. 38] c37: ('read',) -> 4" in verdict.explanation


def test_a_spent_budget_is_an_outcome_of_its_own():
    racing = [op(n, 100 + n, ("add", 1 << n), 0) for n in range(14)]
    verdict = check(Counter(), racing, budget=10)
    assert verdict.outcome is Outcome.GAVE_UP
    with pytest.raises(TypeError, match="three outcomes"):
        assert verdict


def test_a_violation_counts_even_after_a_part_was_too_hard():
    hard = [op(n, 100 + n, ("append", "hard", 1 << n), "ok") for n in range(12)]
    hard.append(op(300, 301, ("get", "hard"), -1))
    easy = [op(400, 401, ("get", "easy"), "never written")]
    assert check(KeyValueStore(), hard + easy, budget=1000).outcome is Outcome.VIOLATION


def test_the_same_instant_counts_as_overlap():
    history = [op(1, 2, ("add", 1), 2), op(2, 3, ("add", 1), 1)]
    assert check(Counter(), history).outcome is Outcome.OK


def test_a_long_history_of_many_clients_is_checked_quickly():
    history, total = History(), 0
    for _ in range(500):
        calls = [(history.call(f"c{n}", ("add", 1)), n) for n in range(4)]
        for call, _ in reversed(calls):
            total += 1
            history.ret(call, total)
    verdict = check(Counter(), history.operations())
    assert verdict.outcome is Outcome.OK
    assert verdict.steps < 20_000


def test_a_recorded_history_keeps_order_and_what_never_returned():
    history = History()
    first = history.call("a", ("add", 1))
    history.call("b", ("add", 2))
    refused = history.call("c", ("add", 3))
    history.forget(refused)
    history.ret(first, 1)
    assert [str(one) for one in history.operations()] == [
        "[1 .. 4] a: ('add', 1) -> 1",
        "[2 .. never] b: ('add', 2) -> ?",
    ]


def test_models_refuse_what_they_do_not_know():
    for model in (CasRegister(), KeyValueStore(), FifoQueue(), Counter(), AppendOnlyLog()):
        with pytest.raises(ValueError, match="has no"):
            model.step(model.initial(), ("fly", "x"), UNKNOWN)
    with pytest.raises(ValueError, match="has no"):
        WriteOnceRegisters().step(None, ("fly", "x"), UNKNOWN)


# -- against brute force ---------------------------------------------------------------------------


def brute_force(model, history):
    """Try every order of every subset that holds all returned operations."""
    returned = [one for one in history if one.returned is not None]
    pending = [one for one in history if one.returned is None]
    for mask in range(1 << len(pending)):
        chosen = returned + [one for n, one in enumerate(pending) if mask >> n & 1]
        for order in permutations(chosen):
            if _respects_time(order) and _fits(model, order):
                return True
    return False


def _respects_time(order):
    return not any(
        late.returned is not None and late.returned < early.called
        for at, early in enumerate(order)
        for late in order[at + 1 :]
    )


def _fits(model, order):
    state = model.initial()
    for one in order:
        fits, state = model.step(state, one.input, one.output)
        if not fits:
            return False
    return True


def operations(asked_and_output):
    """Up to six operations over few times (so with ties), some of unknown outcome."""
    times = st.tuples(st.integers(0, 8), st.integers(0, 5) | st.none())
    one = st.builds(
        lambda time, pair: op(time[0], None if time[1] is None else time[0] + time[1], *pair),
        times,
        asked_and_output,
    )
    return st.lists(one, max_size=6)


SMALL = st.integers(0, 2)
MODELS = {
    "write-once registers": (
        WriteOnceRegisters(),
        st.tuples(st.builds(lambda v: ("write", "r", v), SMALL), st.just("ok"))
        | st.tuples(
            st.builds(lambda v: ("write", "r", v), SMALL),
            st.builds(lambda v: ("lost", v), SMALL),
        )
        | st.tuples(st.just(READ), st.none() | SMALL),
    ),
    "compare-and-set register": (
        CasRegister(0),
        st.tuples(st.builds(lambda a, b: ("cas", a, b), SMALL, SMALL), st.booleans())
        | st.tuples(st.builds(lambda v: ("write", v), SMALL), st.just("ok"))
        | st.tuples(st.just(("read",)), SMALL),
    ),
    "queue": (
        FifoQueue(),
        st.tuples(st.builds(lambda v: ("enqueue", v), SMALL), st.just("ok"))
        | st.tuples(st.just(("dequeue",)), st.none() | SMALL),
    ),
    "counter": (
        Counter(),
        st.tuples(st.just(("add", 1)), st.integers(1, 4))
        | st.tuples(st.just(("read",)), st.integers(0, 4)),
    ),
    "log": (
        AppendOnlyLog(),
        st.tuples(st.builds(lambda v: ("append", v), SMALL), SMALL)
        | st.tuples(st.builds(lambda p: ("read", p), SMALL), st.none() | SMALL)
        | st.tuples(st.just(("tail",)), SMALL),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_agrees_with_brute_force(name):
    model, pairs = MODELS[name]

    @settings(max_examples=120, deadline=None, derandomize=True)
    @given(operations(pairs))
    def agrees(history):
        verdict = check(model, history)
        assert (verdict.outcome is Outcome.OK) == brute_force(model, history)

    agrees()
