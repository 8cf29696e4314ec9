"""A fork has the connection, and not the thread that serves it."""

import multiprocessing
import os

import pytest

import wormspace
import wormspace.sync

FORK = multiprocessing.get_context("fork")


def in_child(work, *arguments):
    """What `work` returns in a forked child; fails if it hangs."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=lambda: theirs.send(work(*arguments)))
    process.start()
    assert ours.poll(30), "the child hangs"
    process.join(30)
    assert process.exitcode == 0
    return ours.recv()


def try_it(call):
    try:
        call()
    except wormspace.Closed as e:
        return str(e)
    return "it worked"


@pytest.mark.parametrize("url", ["memory:", "file:{}"])
def test_a_child_is_told_to_connect_by_itself(url, tmp_path):
    worm = wormspace.sync.connect(url.format(tmp_path / "state"))
    space = worm.space("s")
    segment = space.alloc(size=2)
    segment.unsafe_write(0, b"v")
    feed = space.listen()
    next(feed)
    for call in (
        lambda: segment.read(0),
        lambda: space.alloc(size=1),
        lambda: next(feed),
        lambda: worm.log("l"),
    ):
        assert "connect again" in in_child(try_it, call)
    assert in_child(try_it, worm.close) == "it worked"  # and does not hang
    assert in_child(try_it, feed.close) == "it worked"
    assert segment.read(0) == b"v"
    segment.unsafe_write(1, b"w")
    worm.close()


def test_a_child_works_on_a_connection_of_its_own(tmp_path):
    worm = wormspace.sync.connect("memory:")

    def work():
        with wormspace.sync.connect(f"file:{tmp_path / 'own'}") as mine:
            segment = mine.space("s").alloc(size=1)
            segment.unsafe_write(0, b"child")
            return segment.read(0)

    assert in_child(work) == b"child"
    worm.close()


def test_a_child_does_not_keep_the_lock_of_its_parents_store(tmp_path):
    path = tmp_path / "state"
    worm = wormspace.sync.connect(f"file:{path}")
    stop_reading, stop = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(stop)
        os.read(stop_reading, 1)  # lives until the test is over
        os._exit(0)
    try:
        worm.close()
        wormspace.sync.connect(f"file:{path}").close()
    finally:
        os.close(stop)
        os.waitpid(pid, 0)
