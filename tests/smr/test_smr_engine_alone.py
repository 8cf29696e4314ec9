"""What an engine does without a command: what is due, leases that lapse, what replicas compare."""

import logging
import random

import msgspec
import pytest

from wormspace.knobs import turned
from wormspace.smr import Diverged, StateMachine, command, query
from wormspace.smr.calls import encode_calls
from wormspace.smr.engine import Engine
from wormspace.smr.records import NOOP, Batch, Mark, Packet, decode_outcome, decode_plain_outcome
from wormspace.smr.versions import UPGRADE, Upgrade, encode_upgrade
from wormspace.space import Address

ENCODE = msgspec.msgpack.encode
SIZE = 8


class Alarm(StateMachine):
    """Notes what happens, when, and with which dice; does what it is told to."""

    at_s: float | None = None
    running: dict[str, float] = {}  # noqa: RUF012
    happened: list[tuple[str, float, float]] = []  # noqa: RUF012
    event = str

    @command
    def set(self, at_s: float | None, running: dict[str, float]) -> int:
        self.at_s, self.running = at_s, running
        return len(self.happened)

    @command
    def say(self, words: list[str]) -> None:
        for word in words:
            self.emit(word)

    @query
    def all(self) -> list[tuple[str, float, float]]:
        return self.happened

    @command
    def later(self) -> list[float]:
        return [self.random.random(), self.random.random()]

    @command
    def fail(self) -> None:
        raise type(self).trouble

    trouble = ValueError("first words")
    dues = None

    def due(self) -> float | None:
        if isinstance(type(self).dues, Exception):
            raise type(self).dues
        return self.at_s

    def _note(self, what):
        self.happened.append((what, self.now, self.random.random()))
        if isinstance(type(self).dues, str):
            raise ValueError(type(self).dues)

    def on_due(self) -> None:
        self._note("due")
        self.at_s = None

    def leases(self) -> dict[str, float]:
        if isinstance(type(self).dues, Exception):
            raise type(self).dues
        return self.running

    def on_lapse(self, lease: str) -> None:
        self._note(lease)
        del self.running[lease]


METHODS = Alarm.declaration.methods


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(Alarm, "dues", None)
    monkeypatch.setattr(Alarm, "trouble", ValueError("first words"))


def packet(number, *calls, client=b"c"):
    raw = encode_calls([METHODS[name] for name, *_ in calls], [tuple(a) for _, *a in calls])
    return Packet(client, number, 1, raw)


def batch(*packets, time_s=1.0, **named):
    return ENCODE(Batch(int(time_s * 1e9), 7, list(packets), **named))


# ---------------------------------------------------------------- what happens by itself


@pytest.mark.parametrize(
    ("at_s", "time_s", "happens"),
    [(None, 9, False), (5.0, 4.999999999, False), (5.0, 5.0, True), (5.0, 6, True), (0.0, 1, True)],
)
def test_what_is_due_happens_before_the_commands_and_once(at_s, time_s, happens):
    engine = Engine(Alarm())
    engine.apply(batch(packet(1, ("set", at_s, {})), time_s=-3), SIZE)
    applied, _ = engine.apply(batch(packet(2, ("set", 99.0, {})), time_s=time_s), SIZE)
    assert decode_plain_outcome(applied[0].outcome).values == [int(happens)]
    engine.apply(batch(time_s=time_s), SIZE)
    assert [(what, now) for what, now, _ in engine.machine.happened] == [("due", time_s)] * happens
    assert engine.due() == 99


def test_a_lease_that_runs_lapses_with_the_time_of_the_batch_and_one_that_does_not_is_passed_over():
    engine = Engine(Alarm())
    engine.apply(batch(packet(1, ("set", None, {"a": 1.5, "b": 2.5, "c": 1.0}))), SIZE)
    assert engine.leases() == {"a": 1.5, "b": 2.5, "c": 1.0}
    engine.apply(batch(time_s=4, lapsed=["a", "nobody's", "c", "a"]), SIZE)
    assert [(what, now) for what, now, _ in engine.machine.happened] == [("a", 4.0), ("c", 4.0)]
    assert engine.leases() == {"b": 2.5}


def test_what_happens_at_one_register_has_dice_of_its_own_and_the_same_everywhere():
    thrown = []
    for _ in range(2):
        engine = Engine(Alarm())
        engine.apply(NOOP, SIZE)
        engine.apply(batch(packet(1, ("set", 2.0, {"a": 1.0, "b": 1.0}))), SIZE)
        engine.apply(batch(packet(2, ("set", 4.0, {"a": 1.0})), time_s=3, lapsed=["a", "b"]), SIZE)
        engine.apply(batch(time_s=5, lapsed=["a"]), SIZE)
        thrown.append(engine.machine.happened)
    assert thrown[0] == thrown[1]
    assert [what for what, _, _ in thrown[0]] == ["due", "a", "b", "due", "a"]
    assert [dice for _, _, dice in thrown[0]] == [
        random.Random(f"7/0/{place}").random() for place in ("2/due", "2/a", "2/b", "3/due", "3/a")
    ]


def test_each_packet_has_dice_of_its_own_by_the_batch_its_register_and_its_place_in_it():
    engine = Engine(Alarm())
    engine.apply(NOOP, SIZE)
    thrown = []
    for number in (1, 3):
        applied, _ = engine.apply(
            batch(packet(number, ("later",)), packet(number + 1, ("later",))), SIZE
        )
        thrown += [decode_plain_outcome(one.outcome).values[0] for one in applied]
    dice = [random.Random(f"7/0/{place}") for place in ("1/0", "1/1", "2/0", "2/1")]
    assert thrown == [[one.random(), one.random()] for one in dice]


def test_what_cannot_happen_is_said_once_for_each_error_and_tried_again(monkeypatch, caplog):
    caplog.set_level(logging.ERROR, "wormspace.smr")
    engine = Engine(Alarm())
    engine.apply(batch(packet(1, ("set", 2.0, {"a": 1.0}))), SIZE)
    for words, lapsed in [("x", []), ("x", []), ("y", []), ("x", []), ("z", ["a"])]:
        monkeypatch.setattr(Alarm, "dues", words)
        engine.apply(batch(time_s=3, lapsed=lapsed), SIZE)
    assert engine.machine.happened == []
    end = "; nothing has changed, and it is tried again"
    said = [f"Alarm.on_due: ValueError: {words}" for words in ("x", "y", "x", "z")]
    assert caplog.messages == [one + end for one in [*said, "Alarm.on_lapse: ValueError: z"]]
    caplog.clear()
    monkeypatch.setattr(Alarm, "dues", ValueError("no"))
    assert (engine.due(), engine.leases()) == (None, {})
    engine.apply(batch(time_s=4, lapsed=["a"]), SIZE)
    said = [f"Alarm.{what}: ValueError: no{end}" for what in ("due", "leases")]
    assert caplog.messages == said * 2
    monkeypatch.setattr(Alarm, "dues", None)
    engine.apply(batch(time_s=5, lapsed=["a"]), SIZE)
    assert [what for what, _, _ in engine.machine.happened] == ["due", "a"]


@pytest.mark.parametrize("what", ["due", "leases", "on_due", "on_lapse"])
def test_what_says_something_about_this_process_is_no_replicas_state(what, monkeypatch):
    engine = Engine(Alarm())
    engine.apply(batch(packet(1, ("set", 2.0, {"a": 1.0}))), SIZE)

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(Alarm, what, full)
    with pytest.raises(MemoryError):
        engine.apply(batch(time_s=3, lapsed=["a"]), SIZE)


def test_events_are_counted_and_the_last_ones_held():
    with turned(smr_events_kept=4):
        engine = Engine(Alarm())
    engine.apply(batch(packet(1, ("say", ["a", "b"]))), SIZE)
    assert (engine.emitted, list(engine.recent)) == (2, ["a", "b"])
    engine.apply(NOOP, SIZE)
    engine.apply(batch(packet(2, ("say", [])), packet(3, ("say", ["c", "d", "e"]))), SIZE)
    assert (engine.emitted, list(engine.recent)) == (5, ["b", "c", "d", "e"])
    assert engine.machine._events == []


# ---------------------------------------------------------------- what replicas compare


def test_claims_are_known_of_so_many_positions_and_those_before_are_not_compared():
    with turned(smr_chains_kept=8):
        engine = Engine(Alarm())
        assert engine.mark() is None
        engine.apply(NOOP, 99)
        assert engine.mark() is None, "nothing was said at that register"
        for number in range(1, 12):
            engine.apply(batch(packet(number, ("set", None, {}))), 99)
            assert engine.mark() == Mark(engine.position, engine.chain)
        assert list(engine.chains) == [Address(0, n) for n in range(5, 13)]
        assert len(set(engine.chains.values())) == 8
        engine.apply(batch(chain=Mark(Address(0, 4), b"forgotten")), 99)
        assert engine.mark().digest != engine.chains[Address(0, 12)], "what is hashed is hashed on"
        engine.apply(batch(chain=Mark(Address(3, 0), b"not reached yet")), 99)
        mine = engine.mark()
        engine.apply(batch(chain=mine), 99)
        for other in (bytes(16), b"\xff" * 16):
            with pytest.raises(Diverged, match=f"Alarm: at position {mine.position} commands had"):
                engine.apply(batch(chain=Mark(mine.position, other)), 99)


def test_of_a_fault_replicas_compare_where_it_is_and_its_class_but_not_its_words(monkeypatch):
    chains = {}
    for trouble in (ValueError("first words"), ValueError("others", 7), KeyError("first words")):
        monkeypatch.setattr(Alarm, "trouble", trouble)
        for calls in ([("fail",)], [("set", None, {}), ("fail",)], [("fail",), ("set", None, {})]):
            engine = Engine(Alarm())
            engine.apply(batch(packet(1, *calls)), SIZE)
            chains[repr(trouble), len(chains) % 3] = engine.chain
    first, words, other = (list(chains.values())[n : n + 3] for n in (0, 3, 6))
    assert first == words
    assert len({*first, *other}) == 6


def test_the_hash_of_outcomes_is_part_of_the_format():
    engine = Engine(Alarm())
    digests = []
    for number, raw in enumerate((packet(1, ("set", 1.0, {})).commands, b"junk", UPGRADE, None), 1):
        one = packet(4, ("fail",)) if raw is None else Packet(b"c", number, 1, raw)
        engine.apply(batch(one), SIZE)
        digests.append(engine.chain.hex())
    assert digests == DIGESTS


DIGESTS = [
    "4b216084576db373b3ba8baf40d49f82",
    "a2327c2878a85e98d737b9343c8f3a7a",
    "b456177d9c92455ecad0f7d6c172ac9b",
    "261b4700b11cb6c89fd1af6436d38c5d",
]


def test_a_packet_that_was_applied_or_is_refused_is_not_hashed_again():
    once, twice = Engine(Alarm()), Engine(Alarm())
    kept, new = packet(1, ("set", 5.0, {})), packet(2, ("set", 6.0, {}))
    late = Packet(b"d", 3, 3, new.commands, settled=True)
    once.apply(batch(kept, new), SIZE)
    applied, _ = twice.apply(batch(kept, late, kept, new), SIZE)
    assert once.chain == twice.chain
    assert [(one.client, one.number) for one in applied] == [
        (b"c", 1),
        (b"d", 3),
        (b"c", 1),
        (b"c", 2),
    ]
    assert applied[0].outcome == applied[2].outcome
    assert decode_outcome(applied[1].outcome).refused == "its session has expired"


# ---------------------------------------------------------------- becoming another version


class Next(StateMachine, version=2, replaces=Alarm):
    at_s: float | None = None

    @query
    def all(self) -> list[tuple[str, float, float]]:
        return []

    @query
    def later(self) -> int:
        return 0

    @query
    def new(self) -> int:
        return 0

    def migrate(self, old) -> None:
        if old.at_s == 13:
            raise ValueError("unlucky")


def upgrade(number, raw):
    return Packet(b"c", number, 1, raw)


def test_an_upgrade_goes_forward_and_says_which_version_there_is(caplog):
    caplog.set_level(logging.INFO, "wormspace.smr")
    engine = Engine(Alarm(), Next)
    to_1, to_2 = encode_upgrade(Alarm), encode_upgrade(Next)

    def values(raw):
        applied, _ = engine.apply(batch(upgrade(len(engine.chains) + 1, raw)), SIZE)
        outcome = decode_plain_outcome(applied[0].outcome)
        return outcome.values, [one.kind for one in outcome.faults.values()], outcome.refused

    malformed = values(UPGRADE + b"\x91\x02")
    assert malformed[:2] == ([], [])
    assert malformed[2].startswith("its packet is malformed: ")
    assert values(to_1) == ([1], [], "")
    engine.machine.at_s = 13.0
    assert values(to_2) == ([None], ["ValueError"], "")
    assert type(engine.machine) is Alarm
    engine.machine.at_s = 14.0
    assert values(to_2) == values(to_2) == values(to_1) == ([2], [], "")
    assert (type(engine.machine), engine.machine.at_s) == (Next, 14.0)
    assert caplog.messages == ["Next is of version 2 now"]
    newer = UPGRADE + ENCODE(Upgrade(1, {"absurd": "shape"}))
    assert values(newer) == ([2], [], ""), "what is over is not compared"


def test_a_query_is_answered_by_the_version_that_there_is():
    engine = Engine(Alarm(), Next)
    engine.apply(batch(packet(1, ("set", 2.0, {}))), SIZE)
    engine.apply(batch(time_s=3), SIZE)
    methods = Next.declaration.methods
    found = engine.query(methods["all"], ())
    assert found == engine.machine.happened != []
    found.clear()
    assert len(engine.machine.happened) == 1, "what is answered is the caller's own"
    for name in ("later", "new"):  # one is a command there
        with pytest.raises(TypeError, match=f"Alarm has no '{name}' yet: upgrade it"):
            engine.query(methods[name], ())
    engine.apply(batch(upgrade(9, encode_upgrade(Next))), SIZE)
    assert [engine.query(methods[name], ()) for name in ("all", "later", "new")] == [[], 0, 0]
