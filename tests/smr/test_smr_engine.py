"""The engine: the same everywhere, once per command, an exception is a result."""

import msgspec
import pytest

from wormspace.errors import ProtocolViolation
from wormspace.knobs import KNOBS, turned
from wormspace.smr import Diverged, StateMachine, Table, command
from wormspace.smr.calls import as_fault, encode_calls
from wormspace.smr.engine import Engine
from wormspace.smr.records import NOOP, SEAL, SKIP, Batch, Mark, Packet, decode_plain_outcome
from wormspace.smr.submit import as_exception
from wormspace.space import Address

ENCODE = msgspec.msgpack.encode
SIZE = 8


class TooMuch(Exception):
    pass


class Spoken(Exception):
    """Makes a sentence of what it is given."""

    def __init__(self, sku):
        super().__init__(f"no {sku} left")


class Account(StateMachine):
    total: int = 0
    log: list[float] = []  # noqa: RUF012

    @command
    def add(self, amount: int) -> int:
        if amount > 100:
            raise TooMuch(amount, "pounds")
        self.total += amount
        return self.total

    @command
    def roll(self) -> float:
        self.log.append(self.random.random() + self.now)
        return self.log[-1]

    @command
    def everything(self) -> list[float]:
        return self.log

    @command
    def huge(self) -> int:
        return 1 << 70

    @command
    def recurse(self) -> int:
        return self.recurse()


def packet(number, *calls, client=b"c", low=1, settled=False):
    methods = Account.declaration.methods
    called = [methods[name] for name, *_ in calls]
    raw = encode_calls(called, [tuple(arguments) for _, *arguments in calls])
    return Packet(client, number, low, raw, settled)


def register(*packets, time_s=1.0, seed=7, chain=None):
    return ENCODE(Batch(int(time_s * 1e9), seed, list(packets), chain))


def outcomes(applied):
    return [decode_plain_outcome(one.outcome) for one in applied]


def test_commands_are_applied_in_order_and_have_results():
    engine = Engine(Account())
    applied, _ = engine.apply(register(packet(1, ("add", 3), ("add", 4))), SIZE)
    assert outcomes(applied)[0].values == [3, 7]
    assert engine.position == Address(0, 1)


def test_a_packet_that_comes_again_has_its_outcome_and_no_second_effect():
    engine = Engine(Account())
    first, _ = engine.apply(register(packet(1, ("add", 3))), SIZE)
    again, _ = engine.apply(register(packet(1, ("add", 3)), packet(1, ("add", 3))), SIZE)
    assert [one.outcome for one in again] == [first[0].outcome] * 2
    assert engine.machine.total == 3


def test_packets_may_overtake_each_other_but_not_come_after_their_client_has_moved_on():
    engine = Engine(Account())
    engine.apply(register(packet(2, ("add", 1))), SIZE)
    engine.apply(register(packet(1, ("add", 10))), SIZE)
    engine.apply(register(packet(5, ("add", 100), low=5)), SIZE)
    late, _ = engine.apply(register(packet(3, ("add", 1000))), SIZE)
    assert "given it up" in outcomes(late)[0].refused
    assert engine.machine.total == 111


def test_a_client_that_was_silent_for_too_long_is_told_that_nobody_knows():
    with turned(smr_session_batches=3):
        _silent_for_too_long()


def _silent_for_too_long():
    engine = Engine(Account())
    engine.apply(register(packet(1, ("add", 1))), 100)
    later = 2.0 + KNOBS.smr_session_s
    engine.apply(register(time_s=later), 100)
    assert len(engine.sessions) == 1, "a clock that is ahead makes nobody forgotten"
    for _ in range(4):
        engine.apply(register(packet(1, ("add", 1), client=b"d"), time_s=later), 100)
    assert len(engine.sessions) == 1
    late, _ = engine.apply(register(packet(2, ("add", 1), low=2, settled=True)), 100)
    assert "expired" in outcomes(late)[0].refused
    assert engine.machine.total == 2


def test_a_client_that_gave_up_before_it_ever_had_an_outcome_is_welcome():
    engine = Engine(Account())
    applied, _ = engine.apply(register(packet(2, ("add", 1), low=2)), SIZE)
    assert outcomes(applied)[0].values == [1]
    late, _ = engine.apply(register(packet(1, ("add", 1))), SIZE)
    assert "given it up" in outcomes(late)[0].refused


def test_an_exception_is_the_commands_result_and_can_be_raised_where_it_was_called():
    engine = Engine(Account())
    applied, _ = engine.apply(register(packet(1, ("add", 101), ("add", 2))), SIZE)
    (outcome,) = outcomes(applied)
    assert outcome.values == [None, 2]
    error = as_exception(outcome.faults[0], Account.declaration)
    assert type(error) is TooMuch
    assert error.args == (101, "pounds")


@pytest.mark.parametrize(
    "error",
    [Spoken("a"), TooMuch(1), KeyError("x"), OSError(2, "no"), ValueError()],
)
def test_an_exception_says_what_it_said_where_it_was_raised(error):
    again = as_exception(as_fault(error), Account.declaration)
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_a_result_that_cannot_be_encoded_is_an_exception_everywhere():
    engine = Engine(Account())
    applied, _ = engine.apply(register(packet(1, ("huge",), ("add", 2))), SIZE)
    (outcome,) = outcomes(applied)
    assert outcome.values == [None, 2]
    assert outcome.faults[0].kind == "OverflowError"


def test_an_argument_of_another_type_harms_only_its_own_command():
    engine = Engine(Account())
    raw = ENCODE(([(0, 2), (1, 1)], [("add", ["three", 3]), ("unheard-of",)]))
    applied, _ = engine.apply(register(Packet(b"c", 1, 1, raw)), SIZE)
    (outcome,) = outcomes(applied)
    assert outcome.values == [None, 3, None]
    assert {fault.kind for fault in outcome.faults.values()} == {"TypeError"}


def test_recursion_without_end_stops_no_replica():
    engine = Engine(Account())
    applied, _ = engine.apply(register(packet(1, ("recurse",), ("add", 1))), SIZE)
    assert outcomes(applied)[0].faults[0].kind == "RecursionError"
    assert engine.machine.total == 1


def test_a_result_is_what_it_was_when_the_command_returned():
    engine = Engine(Account())
    calls = [("roll",), ("everything",), ("roll",), ("everything",)]
    applied, _ = engine.apply(register(packet(1, *calls)), SIZE)
    values = outcomes(applied)[0].values
    assert [len(values[1]), len(values[3])] == [1, 2]


def test_time_and_dice_come_with_the_command_and_time_never_goes_back():
    one, other = Engine(Account()), Engine(Account())
    for engine in (one, other):
        engine.apply(register(packet(1, ("roll",), ("roll",)), time_s=50), SIZE)
        engine.apply(register(packet(2, ("roll",)), time_s=40, seed=8), SIZE)
    assert one.machine.log == other.machine.log
    assert len(set(one.machine.log)) == 3
    assert all(50 <= value < 51 for value in one.machine.log)
    assert one.chain == other.chain


def test_a_replica_with_other_outcomes_at_an_equal_position_says_so():
    one, other = Engine(Account()), Engine(Account())
    other.machine.total = 1  # a cosmic ray
    for engine in (one, other):
        engine.apply(register(packet(1, ("add", 1))), SIZE)
    claim = one.mark()
    assert claim == Mark(Address(0, 1), one.chain)
    one.apply(register(packet(2, ("add", 1)), chain=claim), SIZE)
    with pytest.raises(Diverged, match="position 0/1"):
        other.apply(register(packet(2, ("add", 1)), chain=claim), SIZE)


def test_noops_and_seals_move_on():
    engine = Engine(Account())
    engine.apply(NOOP, SIZE)
    assert engine.position == Address(0, 1)
    engine.apply(SEAL, SIZE)
    assert engine.position == Address(1, 0)
    for _ in range(SIZE):
        engine.apply(NOOP, SIZE)
    assert engine.position == Address(2, 0)


def test_an_owner_that_rests_is_passed_over_to_the_end_of_the_segment():
    engine = Engine(Account())
    seen = []
    for raw in (NOOP, SKIP, NOOP, NOOP, NOOP, NOOP, NOOP):
        seen.append(engine.position.offset)
        engine.apply(raw, SIZE, 3)
    assert seen == [0, 1, 2, 3, 5, 6, 0]
    assert engine.position == Address(1, 1)
    assert engine.rests == set()


def test_when_all_rest_the_segment_is_over():
    engine = Engine(Account())
    for _ in range(3):
        engine.apply(SKIP, SIZE, 3)
    assert engine.position == Address(1, 0)


def test_something_else_in_a_register_is_not_passed_over():
    with pytest.raises(ProtocolViolation, match="0/0"):
        Engine(Account()).apply(b"garbage", SIZE)


def test_a_register_of_an_earlier_format_is_refused_and_not_misread():
    as_it_was = ENCODE(
        [1, 10**9, 7, [[b"c", 1, 1, ENCODE([["add", 3]]), False]], None, False, None]
    )
    engine = Engine(Account())
    with pytest.raises(ProtocolViolation, match="0/0"):
        engine.apply(as_it_was, SIZE)
    assert engine.machine.total == 0


class Rows(StateMachine):
    rows: Table[int, int]

    @command
    def put(self, key: int) -> None:
        self.rows[key] = key


def test_after_each_register_tables_are_in_order():
    """Whoever looks at the order next does not pay for all the keys of the past."""
    engine = Engine(Rows())
    raw = encode_calls([Rows.declaration.methods["put"]] * 9, [(-n,) for n in range(9)])
    engine.apply(register(Packet(b"c", 1, 1, raw)), SIZE)
    assert list(engine.machine.rows._keys) == list(range(-8, 1))
