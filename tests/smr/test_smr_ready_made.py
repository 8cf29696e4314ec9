"""Ready-made types, command by command: what each returns, and what is the state afterwards."""

import pytest

from wormspace.smr import Counter, Dict, Election, Lock, Queue, Set
from wormspace.smr.declare import Moment
from wormspace.smr.types import Grant, Job


def made(machine_type):
    machine = machine_type()
    machine._moment = Moment(10**9, "dice")
    return machine


def test_a_counter_counts():
    counter = made(Counter)
    assert counter.read() == 0
    assert [counter.add(), counter.add(5), counter.add(-2)] == [1, 6, 4]
    assert counter.set_to(9) == 4
    assert (counter.read(), counter.set_to(0), counter.read()) == (9, 9, 0)


def test_a_dict_says_what_was_there():
    names = made(Dict)
    assert (names.set("b", b"1"), names.set("b", b"2"), names.set("a", b"3")) == (None, b"1", None)
    assert (names.get("a"), names.get("z"), names.size()) == (b"3", None, 2)
    assert names.set_default("a", b"4") == b"3"
    assert names.set_default("c", b"5") == b"5"
    assert names.items() == [("a", b"3"), ("b", b"2"), ("c", b"5")]
    assert (names.pop("a"), names.pop("a")) == (b"3", None)
    assert names.items() == [("b", b"2"), ("c", b"5")]


def test_a_set_says_what_is_new():
    names = made(Set)
    assert [names.add("b"), names.add("a"), names.add("b")] == [True, True, False]
    assert (names.contains("a"), names.contains("z"), names.members()) == (True, False, ["a", "b"])
    assert [names.discard("a"), names.discard("a")] == [True, False]
    assert (names.contains("a"), names.members()) == (False, ["b"])


def test_a_queue_lends_the_oldest_and_every_lease_is_another():
    queue = made(Queue)
    assert (queue.peek(), queue.size(), queue.take(), queue.leases()) == (None, 0, None, {})
    assert [queue.put(item) for item in (b"a", b"b", b"c")] == [0, 1, 2]
    assert (queue.peek(), queue.size()) == (b"a", 3)
    first = queue.take(5.0, "mine")
    assert first == Job(0, b"a", "mine", 5.0, 1)
    assert queue.take(7.0, "mine") == Job(0, b"a", "mine", 7.0, 2), "the same job, lent anew"
    assert (queue.peek(), queue.size()) == (b"b", 3)
    second = queue.take()
    assert (second.number, second.item, second.lease_s, second.lease) == (1, b"b", 30.0, 3)
    assert len(second.token) == 16
    assert queue.leases() == {"mine/2": 7.0, f"{second.token}/3": 30.0}
    assert queue.renew("mine") == Job(0, b"a", "mine", 30.0, 4)
    assert queue.renew("mine", 2.5) == Job(0, b"a", "mine", 2.5, 5)
    assert queue.renew("nobody's") is None
    assert queue.leases()["mine/5"] == 2.5
    assert (queue.finish(second.token), queue.finish(second.token)) == (True, False)
    assert (queue.size(), queue.peek()) == (2, b"c")
    assert (queue.give_back("mine"), queue.give_back("mine")) == (True, False)
    assert (queue.peek(), queue.size(), queue.leases()) == (b"a", 2, {})
    assert queue.put(b"d") == 3, "a number never comes again"


def test_a_job_whose_lease_has_lapsed_is_back_at_its_place():
    queue = made(Queue)
    for item in (b"a", b"b"):
        queue.put(item)
    queue.take(5.0, "with/a/stroke")
    queue.take(5.0, "other")
    queue.on_lapse("with/a/stroke/1")
    assert (queue.peek(), queue.leases()) == (b"a", {"other/2": 5.0})
    assert queue.finish("with/a/stroke") is False
    assert queue.take(1.0, "again") == Job(0, b"a", "again", 1.0, 3)


def test_the_dice_of_a_command_choose_the_token_if_nobody_does():
    tokens = []
    for seed in ("one", "two", "one"):
        queue = Queue()
        queue._moment = Moment(0, seed)
        queue.put(b"")
        tokens.append(queue.take().token)
    assert tokens[0] == tokens[2] != tokens[1]


@pytest.mark.parametrize("lease_s", [0, -1.0, float("nan"), float("inf")])
def test_a_lease_that_is_none_is_refused_wherever_it_is_asked_for(lease_s):
    queue, lock = made(Queue), made(Lock)
    queue.put(b"a")
    for ask in (
        lambda: queue.take(lease_s),
        lambda: queue.renew("t", lease_s),
        lambda: lock.acquire("a", lease_s),
        lambda: lock.renew("t", lease_s),
    ):
        with pytest.raises(ValueError, match="positive number of seconds"):
            ask()
    assert (queue.peek(), queue.leases_begun, lock.holder()) == (b"a", 0, None)


@pytest.mark.parametrize("kind", [Lock, Election])
def test_a_lock_has_one_holder_at_a_time_and_says_each_change(kind):
    lock = made(kind)
    assert (lock.holder(), lock.leases()) == (None, {})
    first = lock.acquire("ann", 5.0, "t1")
    assert first == lock.holder() == Grant("ann", 1, 5.0, "t1")
    assert lock.leases() == {"1": 5.0}
    assert [lock.acquire("ann", 5.0), lock.acquire("bob", 5.0, "t2")] == [None, None]
    assert lock.acquire("whoever", 6.0, "t1") == Grant("ann", 1, 6.0, "t1")
    assert lock.leases() == {"2": 6.0}
    assert lock.renew("t1", 7.0) == lock.holder() == Grant("ann", 1, 7.0, "t1")
    assert lock.leases() == {"3": 7.0}
    assert (lock.renew("t2", 9.0), lock.release("t2")) == (None, False)
    assert lock._events == [first], "a renewal is no change"
    assert lock.release("t1") is True
    assert (lock.holder(), lock.leases(), lock._events) == (None, {}, [first, None])
    assert (lock.release("t1"), lock.renew("t1", 5.0)) == (False, None)
    second = lock.acquire("bob", 4.0)
    assert (second.owner, second.fence, second.lease_s, len(second.token)) == ("bob", 2, 4.0, 16)
    assert lock.leases() == {"4": 4.0}
    lock.on_lapse("4")
    assert (lock.holder(), lock._events) == (None, [first, None, second, None])
    assert lock.acquire("cy", 1.0, "t3") == Grant("cy", 3, 1.0, "t3")
