"""The kernel refuses a call of a server, one of three: nothing acknowledged is lost.

Of a server that serves: strace attaches and lets one call of the system fail, of any of its
threads, while a client writes and reads.  Of one that starts, after it was killed: a call on the
files of its store.  Either the server goes on, or it ended and its log says why; afterwards each
acknowledged write is there, with either of the other servers, and still after a kill.
"""

import asyncio
import re
import time

import pytest

import cluster_fixture
import wormspace
from cluster_fixture import ProcessCluster
from refusing import Refusal, each_moment, refuse, strace, was_refused

pytestmark = pytest.mark.processes

VICTIM = "s2"
SMALL = """
from wormspace import knobs
small = knobs.turned(
    store_checkpoint_bytes=30_000, store_map_bytes=1 << 18, store_inline_after=5,
    store_journal_step_bytes=8192,
)
small.__enter__()
"""
WRITES = 30
FEW = [("accept4", "EMFILE"), ("pwritev2", "EIO"), ("write", "EPIPE"), ("fdatasync", "EIO")]
SERVING = [
    *[("accept4", error) for error in ("EMFILE", "ENFILE", "ECONNABORTED", "ENOMEM")],
    *[("read", error) for error in ("ECONNRESET", "EIO", "ENOMEM")],
    *[("write", error) for error in ("EPIPE", "ECONNRESET", "ENOBUFS")],
    *[("writev", error) for error in ("EPIPE", "EIO", "ENOSPC")],
    *[("pwritev2", error) for error in ("EIO", "ENOSPC")],
    *[("pwrite64", error) for error in ("EIO", "ENOSPC")],
    *[(call, "EIO") for call in ("fsync", "fdatasync", "pread64")],
    *[("mmap", "ENOMEM"), ("munmap", "ENOMEM"), ("mprotect", "ENOMEM"), ("brk", "ENOMEM")],
    *[("epoll_ctl", error) for error in ("ENOMEM", "ENOSPC")],
    *[("epoll_pwait", error) for error in ("EINTR", "EINVAL")],
    *[("setsockopt", "ENOBUFS"), ("getpeername", "ENOBUFS"), ("shutdown", "ENOTCONN")],
    *[("getsockname", "ENOBUFS"), ("ioctl", "EIO"), ("close", "EIO"), ("futex", "EINTR")],
]
STARTING_FEW = [("openat", "EMFILE"), ("mmap", "ENOMEM")]
STARTING = [
    *[("openat", error) for error in ("EMFILE", "EACCES", "EIO", "ENOMEM")],
    *[("flock", "ENOLCK"), ("mmap", "ENOMEM"), ("fallocate", "ENOSPC"), ("ftruncate", "EIO")],
    *[("pwritev2", error) for error in ("EIO", "ENOSPC")],
    *[("pwrite64", error) for error in ("EIO", "ENOSPC")],
    *[(call, "EIO") for call in ("fsync", "fdatasync", "pread64", "lseek")],
    *[(call, "EIO") for call in ("newfstatat", "fstat", "statfs", "fstatfs", "close")],
]


class Injector:
    """Three servers, and what was acknowledged to a client.

    Attributes:
        ended: the cases that the victim did not survive.
    """

    def __init__(self, path):
        self.path = path
        self.cluster = ProcessCluster(path / "cluster")
        self.acked = {}
        self.cases = 0
        self.ended = []

    def _begin(self, case):
        self.cases += 1
        self.case = case
        self.trace = self.path / f"trace-{self.cases}"
        self.since = 1 + max((number for number, _ in self.acked), default=-1)
        self.log_began = len(self.cluster.log_of(VICTIM))

    async def load(self, clients=3):
        """Clients come and go, write and read: all of it succeeds, for two servers are well."""
        for n in range(clients):
            async with wormspace.connect(self.cluster.url, timeout=60) as worm:
                space = worm.space("s")
                segment = await space.alloc(b"%d" % self.cases, size=WRITES)
                token = (await segment.capture()).token
                for offset in range(WRITES):
                    value = b"%d/%d/%d" % (self.cases, n, offset) + bytes(2000)
                    await segment.write(offset, value, token)
                    self.acked[segment.number, offset] = value
                assert await segment.read(0) == self.acked[segment.number, 0]

    def fail_serving(self, call, error, when):
        """The call fails while the server serves; returns whether it was made that often."""
        self._begin((call, error))
        refusal = Refusal(self.cluster.running[VICTIM].pid, self.trace, call, error, when)
        try:
            asyncio.run(self.load())
        finally:
            injected = refusal.end()
        self._check_that_it_ended_well(time.monotonic() + 1.0)
        asyncio.run(self.check_all_is_there(self.since))
        return injected

    def fail_starting(self, call, error, when):
        """The call, on a file of the store, fails while the server starts after a kill."""
        cluster = self.cluster
        self._begin((call, error))
        asyncio.run(self.load(1))
        cluster.kill(VICTIM)
        store = cluster.base / VICTIM
        paths = [store, *store.iterdir()]
        only = [option for path in paths for option in ("-P", str(path))]
        cluster.wrap = [strace(), "-D", "-f", "--seccomp-bpf", "-o", str(self.trace), *only]
        cluster.wrap += refuse(call, error, when)
        try:
            cluster.launch(VICTIM)
        finally:
            cluster.wrap = []
        if cluster.running[VICTIM].stdout.readline().strip() == "ready":
            asyncio.run(self.check_all_is_there(self.since))
            cluster.running[VICTIM].terminate()
            cluster.running[VICTIM].wait(30)
        self._check_that_it_ended_well(time.monotonic() + 30)
        asyncio.run(self.check_all_is_there(self.since))
        return was_refused(self.trace)

    def _check_that_it_ended_well(self, deadline):
        """The server goes on, or its log says why it does not; then it is started again."""
        process = self.cluster.running[VICTIM]
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is None:
            return
        said = self.cluster.log_of(VICTIM)[self.log_began :]
        if process.returncode != 0:
            self.ended.append(self.case)
            assert re.search("failed|fatal|error", said, re.I), f"it ended without a word: {said!r}"
        else:
            assert '"stopped"' in said
        process.stdout.close()
        del self.cluster.running[VICTIM]
        self.cluster.start(VICTIM)

    async def check_all_is_there(self, since=0):
        """Each acknowledged value, from the victim and either other server."""
        for other in ("s1", "s3"):
            self.cluster.pause(other)
            try:
                async with wormspace.connect(self.cluster.url, timeout=60) as worm:
                    space = worm.space("s")
                    for number in sorted({n for n, _ in self.acked if n >= since}):
                        values = await (await space.segment(number)).read_range()
                        for offset, value in enumerate(values):
                            assert value == self.acked.get((number, offset), value)
            finally:
                self.cluster.resume(other)

    def check_after_a_kill(self, since=0):
        self.cluster.kill(VICTIM)
        self.cluster.start(VICTIM)
        asyncio.run(self.check_all_is_there(since))


@pytest.fixture(scope="module")
def injector(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_fixture, "SERVE", SMALL + cluster_fixture.SERVE)
        it = Injector(tmp_path_factory.mktemp("inject"))
        try:
            it.cluster.start()
            yield it
        finally:
            it.cluster.close()


def test_a_call_of_a_server_that_the_kernel_refuses_loses_nothing(injector):
    for call, error in FEW:
        assert injector.fail_serving(call, error, 2), f"a server does not call {call} any more"
    assert ("fdatasync", "EIO") in injector.ended  # the store does not go on
    for call, error in STARTING_FEW:
        assert injector.fail_starting(call, error, 1), f"a start does not call {call} any more"
        assert (call, error) in injector.ended
    injector.check_after_a_kill()


@pytest.mark.soak
@pytest.mark.parametrize(("call", "error"), SERVING)
def test_no_call_of_a_server_that_the_kernel_refuses_loses_anything(injector, call, error):
    began = 1 + max((number for number, _ in injector.acked), default=-1)
    refused = each_moment(lambda when: injector.fail_serving(call, error, when))
    injector.check_after_a_kill(began)
    if not refused:
        pytest.skip(f"a server that serves does not call {call}")


@pytest.mark.soak
@pytest.mark.parametrize(("call", "error"), STARTING)
def test_no_call_of_a_start_that_the_kernel_refuses_loses_anything(injector, call, error):
    refused = each_moment(lambda when: injector.fail_starting(call, error, when))
    if not refused:
        pytest.skip(f"a server that starts does not call {call}")
    if call == "openat":
        assert (call, error) in injector.ended


@pytest.mark.soak
def test_after_all_of_it_everything_is_there(injector):
    injector.check_after_a_kill()
