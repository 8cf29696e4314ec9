"""Who has had what applied: kept until it is settled, and forgotten after long silence only."""

import random

import pytest

from wormspace.knobs import turned
from wormspace.smr.records import Packet
from wormspace.smr.sessions import Session, Sessions

S = 10**9
SILENT_S, SILENT_BATCHES = 60, 8


def packet(client, number, low=1, settled=False):
    return Packet(client.encode(), number, low, b"", settled)


@pytest.fixture(autouse=True)
def _small():
    with turned(smr_session_s=SILENT_S, smr_session_batches=SILENT_BATCHES):
        yield


def test_an_outcome_is_kept_until_its_client_needs_it_no_more():
    sessions = Sessions()
    assert (sessions.find(packet("a", 1)), len(sessions)) == (None, 0)
    for number in (1, 2, 3):
        sessions.keep(packet("a", number), b"%d" % number, 5)
    sessions.keep(packet("b", 2), b"of b", 5)
    assert [sessions.find(packet("a", n)) for n in (1, 2, 3, 4)] == [b"1", b"2", b"3", None]
    sessions.keep(packet("a", 4, low=3), b"4", 5)
    assert [sessions.find(packet("a", n)) for n in (1, 2, 3, 4)] == [None, None, b"3", b"4"]
    sessions.keep(packet("a", 5, low=2), b"5", 5)  # was sent earlier, and was late
    assert [sessions.find(packet("a", n)) for n in (2, 3, 5)] == [None, b"3", b"5"]
    assert sessions.find(packet("b", 2)) == b"of b"
    assert len(sessions) == 2


def test_what_is_over_is_refused_and_says_why():
    sessions = Sessions()
    assert sessions.refusal(packet("a", 7)) == ""
    assert sessions.refusal(packet("a", 7, settled=True)) == "its session has expired"
    sessions.keep(packet("a", 5, low=4), b"", 0)
    given_up = "its client has given it up"
    assert [sessions.refusal(packet("a", n)) for n in (3, 4, 6)] == [given_up, "", ""]
    assert sessions.refusal(packet("a", 6, settled=True)) == ""


@pytest.mark.parametrize("silent_s", [0, 60, 61])
@pytest.mark.parametrize("batches", [1, 8, 9])
def test_a_client_is_forgotten_after_so_much_time_and_so_many_batches_both(silent_s, batches):
    sessions = Sessions()
    for _ in range(3):
        sessions.expire(0)
    sessions.keep(packet("a", 1), b"", 5 * S)
    for _ in range(batches):
        sessions.expire((5 + silent_s) * S)
    gone = silent_s > SILENT_S and batches > SILENT_BATCHES
    assert len(sessions) == (0 if gone else 1)
    assert (sessions.refusal(packet("a", 2, settled=True)) != "") == gone


def test_sessions_are_what_a_list_of_all_that_was_kept_says():
    for seed in range(30):
        rng, sessions, kept, batch, now = random.Random(seed), Sessions(), [], 0, 0
        for _ in range(60):
            client, number = rng.choice("abcd"), rng.randrange(1, 30)
            low = rng.randrange(1, number + 1)
            if sessions.refusal(packet(client, number, low)):
                continue
            sessions.keep(packet(client, number, low), b"%d" % number, now)
            kept = [one for one in kept if one[0] != client] + [(client, now, batch)]
            if rng.random() < 0.7:
                now += rng.choice((0, 10, 40)) * S
                batch += 1
                sessions.expire(now)
                while kept and kept[0][1] < now - SILENT_S * S:
                    if kept[0][2] >= batch - SILENT_BATCHES:
                        break
                    kept.pop(0)
            table = sessions.dump()
            assert table.batch == batch
            held = [(one.decode(), s.touched_ns, s.touched_batch) for one, s in table.clients]
            assert held == kept, "in the order in which they were last used"
            for _, session in table.clients:
                assert min(session.outcomes, default=session.low) >= session.low


def test_a_snapshot_of_sessions_is_of_its_moment_and_goes_on_where_it_was():
    sessions = Sessions()
    sessions.expire(0)
    sessions.keep(packet("a", 2, low=2), b"two", 7)
    sessions.keep(packet("b", 1), b"one", 8)
    table = sessions.dump()
    sessions.keep(packet("a", 3, low=3), b"three", 9)
    assert table.batch == 1
    assert table.clients == [
        (b"a", Session(2, 7, 1, {2: b"two"})),
        (b"b", Session(1, 8, 1, {1: b"one"})),
    ]
    again = Sessions()
    again.keep(packet("z", 1), b"", 1)
    again.load(table)
    assert again.dump() == table
    again.add([(b"c", Session(1, 9, 1, {}))])
    assert [client for client, _ in again.dump().clients] == [b"a", b"b", b"c"]
