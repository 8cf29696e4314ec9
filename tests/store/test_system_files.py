"""The system's calls, as the store makes them: each does what its name says, on a real file."""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wormspace.store.files import SystemFiles

FILES = SystemFiles()


@pytest.fixture
def opened(tmp_path):
    """A new file, and its descriptor."""
    path = tmp_path / "file"
    fd = FILES.open(path, os.O_RDWR | os.O_CREAT)
    yield path, fd
    FILES.close(fd)


def test_what_is_written_where_is_read_there(opened) -> None:
    path, fd = opened
    assert FILES.write(fd, [b"abc", memoryview(b"def")], 4) == 6
    assert FILES.read(fd, 4, 5) == b"bcde"
    assert FILES.read(fd, 99, 8) == b"ef"
    assert FILES.size(fd) == FILES.size_at(path) == 10
    FILES.truncate(fd, 5)
    assert path.read_bytes() == bytes(4) + b"a"
    FILES.reserve(fd, 5, 20)
    assert FILES.size(fd) == 25
    assert not os.get_inheritable(fd)
    assert path.stat().st_mode & 0o777 == 0o644 & ~_umask()


def _umask() -> int:
    held = os.umask(0)
    os.umask(held)
    return held


def test_names_are_made_once_and_what_is_not_there_has_no_size(tmp_path) -> None:
    assert FILES.size_at(tmp_path / "made") is None
    FILES.make_directory(tmp_path / "made")
    assert (tmp_path / "made").is_dir()
    with pytest.raises(FileExistsError):
        FILES.make_directory(tmp_path / "made")
    with pytest.raises(FileNotFoundError):
        FILES.open(tmp_path / "other", os.O_RDONLY)


def test_one_has_the_lock_until_it_is_closed(tmp_path) -> None:
    path = tmp_path / "lock"
    first, second = (FILES.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    FILES.lock(first)
    with pytest.raises(BlockingIOError):
        FILES.lock(second)
    FILES.close(first)
    FILES.lock(second)
    FILES.close(second)
    FILES.close(second)  # that raises nothing
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(second)


def test_who_may_wait_for_the_lock_has_it_when_it_is_let_go(tmp_path) -> None:
    path = tmp_path / "lock"
    first, second = (FILES.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    FILES.lock(first, wait=True)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(FILES.lock, second, wait=True)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.1)
        FILES.close(first)
        waiting.result()
    FILES.close(second)


def test_a_fork_holds_no_lock(tmp_path) -> None:
    path = tmp_path / "lock"
    fds = [FILES.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2)]
    FILES.lock(fds[0])
    child = os.fork()
    if not child:
        held = []
        for fd in fds:
            try:
                os.fstat(fd)
                held.append(fd)
            except OSError:
                pass
        os._exit(0 if held == fds[1:] else 1)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(BlockingIOError):
        fcntl.flock(fds[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    for fd in fds:
        FILES.close(fd)


def test_a_file_and_its_data_are_waited_for(opened, monkeypatch) -> None:
    _, fd = opened
    waited: list[tuple[str, int]] = []
    for call in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, call, lambda fd, call=call: waited.append((call, fd)))
    FILES.sync(fd)
    FILES.sync_data(fd)
    monkeypatch.delattr(os, "fdatasync")
    FILES.sync_data(fd)
    assert waited == [("fsync", fd), ("fdatasync", fd), ("fsync", fd)]


def test_the_room_that_is_left_is_ours_in_bytes(tmp_path, monkeypatch) -> None:
    class Disk:
        f_bavail, f_bfree, f_frsize, f_bsize = 7, 9, 512, 4096

    monkeypatch.setattr(os, "statvfs", lambda path: {tmp_path: Disk}[path])
    assert FILES.free_bytes(tmp_path) == 7 * 512


def test_a_file_system_is_that_of_the_longest_mount_above(tmp_path, monkeypatch) -> None:
    here = tmp_path.resolve()
    mounts = f"a / root 0\nb {here} ours rw\nc {here}/sub tmpfs rw\nd {here}extra other rw\n"
    monkeypatch.setattr(Path, "read_text", lambda self: mounts)
    assert FILES.kind(here / "x") == "ours"
    assert FILES.kind(here / "sub" / "x") == "tmpfs"
    assert FILES.kind(Path("/")) == "root"
    mounts = ""
    assert FILES.kind(here) == ""

    def denied(self):
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", denied)
    assert FILES.kind(here) == ""


def test_memory_numbers_and_time_are_had() -> None:
    with FILES.buffer(4096) as memory:
        assert len(memory) == 4096
    FILES.check_addresses(1 << 30)
    with pytest.raises(OSError, match="memory"):
        FILES.check_addresses(1 << 62)
    assert len({FILES.random(16) for _ in range(3)}) == 3
    assert len(FILES.random(5)) == 5
    assert FILES.now() <= FILES.now()
