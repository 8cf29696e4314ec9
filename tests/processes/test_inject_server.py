"""The kernel refuses a call of a server that serves, one of three: nothing acknowledged is lost.

Strace attaches to the server and lets one call of the system fail, of any of its threads, while a
client writes and reads.  Either the server goes on, or it ended and its log says why; afterwards
each acknowledged write is there, with either of the other servers, and still after a kill.
"""

import asyncio
import re
import shutil
import signal
import subprocess
import time

import pytest

import cluster_fixture
import wormspace
from cluster_fixture import ProcessCluster

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
ALL = [
    *[("accept4", error) for error in ("EMFILE", "ENFILE", "ECONNABORTED", "ENOMEM")],
    *[("read", error) for error in ("ECONNRESET", "EIO", "ENOMEM")],
    *[("write", error) for error in ("EPIPE", "ECONNRESET", "ENOBUFS")],
    *[("writev", error) for error in ("EPIPE", "EIO", "ENOSPC")],
    *[("pwritev2", error) for error in ("EIO", "ENOSPC")],
    *[("pwrite64", error) for error in ("EIO", "ENOSPC")],
    *[(call, "EIO") for call in ("fsync", "fdatasync", "ftruncate", "pread64")],
    ("fallocate", "ENOSPC"),
    ("openat", "EMFILE"),
    ("mmap", "ENOMEM"),
    ("munmap", "ENOMEM"),
    *[("epoll_ctl", error) for error in ("ENOMEM", "ENOSPC")],
    *[("epoll_pwait", error) for error in ("EINTR", "EINVAL")],
    *[("setsockopt", "ENOBUFS"), ("getpeername", "ENOBUFS"), ("shutdown", "ENOTCONN")],
    *[("ioctl", "EIO"), ("close", "EIO"), ("futex", "EINTR")],
]


class Injector:
    """Three servers, and what was acknowledged to a client."""

    def __init__(self, path):
        self.path = path
        self.cluster = ProcessCluster(path / "cluster")
        self.acked = {}
        self.cases = 0
        self.ended = []

    def attach(self, call, error, when):
        """Let the server's call number `when` from now on fail."""
        strace = shutil.which("strace")
        if strace is None:
            pytest.skip("strace is not installed (make databases installs it)")
        self.trace = self.path / f"trace-{self.cases}"
        inject = f"inject={call}:error={error}:when={when}"
        pid = self.cluster.running[VICTIM].pid
        command = [strace, "-f", "-p", str(pid), "-o", str(self.trace), "-e", inject]
        self.strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = self.strace.stderr.readline()
        if "attached" not in said:
            self.strace.kill()
            pytest.skip(f"strace cannot be used here: {said.strip()}")

    def detach(self):
        """Let the server alone; returns whether the call failed."""
        self.strace.send_signal(signal.SIGINT)
        self.strace.communicate(timeout=60)
        return "(INJECTED)" in self.trace.read_text()

    async def load(self):
        """Clients come and go, write and read: all of it succeeds, for two servers are well."""
        for n in range(3):
            async with wormspace.connect(self.cluster.url, timeout=60) as worm:
                space = worm.space("s")
                segment = await space.alloc(b"%d" % self.cases, size=WRITES)
                token = (await segment.capture()).token
                for offset in range(WRITES):
                    value = b"%d/%d/%d" % (self.cases, n, offset) + bytes(2000)
                    await segment.write(offset, value, token)
                    self.acked[segment.number, offset] = value
                assert await segment.read(0) == self.acked[segment.number, 0]

    def check_that_it_ended_well(self, before):
        """The server goes on, or its log says why it does not; then it is started again."""
        process = self.cluster.running[VICTIM]
        deadline = time.monotonic() + 1.0
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is None:
            return
        said = self.cluster.log_of(VICTIM)[before:]
        self.ended.append(self.case)
        assert process.returncode != 0
        assert re.search("failed|fatal|error", said, re.I), f"it ended without a word: {said!r}"
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

    def fail(self, call, error, when):
        """One case; returns whether the call was made that often."""
        self.cases += 1
        self.case = call, error
        since = 1 + max((number for number, _ in self.acked), default=-1)
        before = len(self.cluster.log_of(VICTIM))
        self.attach(call, error, when)
        try:
            asyncio.run(self.load())
        finally:
            injected = self.detach()
        self.check_that_it_ended_well(before)
        asyncio.run(self.check_all_is_there(since))
        return injected

    def check_after_a_kill(self):
        self.cluster.kill(VICTIM)
        self.cluster.start(VICTIM)
        asyncio.run(self.check_all_is_there())


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
        assert injector.fail(call, error, 2), f"a server does not call {call} any more"
    assert ("fdatasync", "EIO") in injector.ended  # the store does not go on
    injector.check_after_a_kill()


@pytest.mark.soak
@pytest.mark.parametrize("when", [1, 2, 5, 20, 60])
@pytest.mark.parametrize(("call", "error"), ALL)
def test_no_call_of_a_server_that_the_kernel_refuses_loses_anything(injector, call, error, when):
    if not injector.fail(call, error, when):
        pytest.skip(f"it is called less than {when} times")
    injector.check_after_a_kill()
