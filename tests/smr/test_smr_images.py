"""Containers as they were at one moment, while they change."""

import random

import pytest

from wormspace.smr.images import DictImage, Image, ItemsImage
from wormspace.smr.kinds import Kind
from wormspace.smr.state import adopt
from wormspace.smr.undo_journal import UndoJournal


def taken(image, limit):
    found = []
    while some := image.take(limit):
        assert len(some) <= limit
        found += some
    assert image.take(None) == []
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_dictionary_is_as_it_was_whatever_changes_while_it_is_read(seed):
    rng = random.Random(seed)
    live = {key: [key] for key in range(rng.randrange(8))}
    before, image, found = dict(live), DictImage(live), []
    assert len(image) == len(before)
    while some := image.take(rng.randrange(1, 4)):
        found += some
        for _ in range(rng.randrange(3)):
            key = rng.randrange(10)
            if key in live and rng.random() < 0.5:
                image.keep([key], is_moved=False)
                live[key] = object()
            elif key in live:
                image.keep([key], is_moved=True)
                del live[key]
            else:
                image.keep([], is_moved=True)
                live[key] = object()
    assert found == list(before.items())
    assert len(image) == len(before)


def test_a_key_that_is_replaced_twice_is_as_it_was_first():
    live = {"a": 1, "b": 2}
    image = DictImage(live)
    for value in (3, 4):
        image.keep(["a"], is_moved=False)
        live["a"] = value
    assert taken(image, 1) == [("a", 1), ("b", 2)]


def test_a_list_is_as_it_was_and_is_copied_once():
    live = list(range(6))
    image = ItemsImage(live, len(live))
    assert image.take(2) == [0, 1]
    image.keep([], is_moved=False)
    assert not image._is_apart
    image.keep([], is_moved=True)
    rest = image._rest
    live.clear()
    image.keep([], is_moved=True)
    assert image._rest is rest
    assert taken(image, 3) == [2, 3, 4, 5]
    assert len(image) == 6


def held(hint, value):
    return adopt(value, Kind(hint, "it"), UndoJournal())


def test_all_images_of_a_state_are_told_until_they_are_closed():
    images = []
    one, other = Image(images), Image(images)
    assert images == [one, other]
    live = held(dict[str, int], {"a": 1})
    quiet = held(dict[str, int], {"q": 1})
    items = held(list[int], [1, 2])
    for image in images:
        image.keep(live, ["a"], is_moved=False)
    dict.__setitem__(live, "a", 2)
    assert one.of(live) is one.of(live)
    assert one.of(live) is not other.of(live)
    assert one.of(live).take(9) == [("a", 1)]
    assert list(other.all_of(live)) == [("a", 1)]
    assert other.all_of(live) == [], "each item can be taken once"
    assert list(one.all_of(quiet)) == [("q", 1)]
    assert one.all_of(items) is items, "nothing has changed it"
    one.keep(items)
    list.clear(items)
    assert one.all_of(items) == [1, 2]
    one.close()
    assert images == [other]
    one.close()
    other.close()
    assert images == []
