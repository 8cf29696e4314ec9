"""The kernel refuses a call of a client: its calls succeed all the same, or it says why not.

A client in a process of its own connects to three servers, writes and reads, on the loop of asyncio
or on uvloop; strace lets one call of the system fail.  A connection that breaks is the library's
affair: all calls succeed.  What the loop itself cannot do without may end the program, not without
a word, and never by a wait that has no end.  What was acknowledged is there.
"""

import asyncio
import subprocess
import sys

import pytest

import wormspace
from cluster_fixture import ProcessCluster
from refusing import Refusal, each_moment

pytestmark = pytest.mark.processes

WRITES = 20
CLIENT = """
import asyncio, os, sys
import uvloop
import wormspace
from wormspace.errors import WormError

# Its own lines come and go by calls that no connection makes.
def say(*words):
    os.writev(1, [" ".join(map(str, words)).encode() + b"\\n"])

def hear():
    line = bytearray(100)
    return line[: os.readv(0, [line])].decode()

async def load(url, case):
    for n in range(2):
        async with wormspace.connect(url, timeout=30) as worm:
            segment = await worm.space("s").alloc(size=20)
            token = (await segment.capture()).token
            for offset in range(20):
                await segment.write(offset, f"{case}/{offset}".encode() + bytes(3000), token)
                say(segment.number, offset)
            assert (await segment.read_range())[19].startswith(case.encode())

run = {"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[2]]
while line := hear():
    try:
        run(load(sys.argv[1], line.strip()))
        say("well")
    except (WormError, OSError) as e:
        say("told", repr(e))
"""
CONNECTION = [
    *[("socket", error) for error in ("EMFILE", "ENOBUFS", "EACCES")],
    *[("connect", error) for error in ("ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL", "EINTR")],
    *[("sendto", error) for error in ("EPIPE", "ECONNRESET", "ENOBUFS")],
    *[("recvfrom", error) for error in ("ECONNRESET", "ETIMEDOUT", "ENOMEM")],
    *[("getsockopt", "ENOBUFS"), ("getpeername", "ENOTCONN"), ("getsockname", "ENOBUFS")],
    *[("setsockopt", "ENOBUFS"), ("shutdown", "ENOTCONN"), ("close", "EIO")],
    *[(call, error) for call in ("read", "write") for error in ("ECONNRESET", "EIO")],
]
"""On the way of one connection."""
LOOP = [
    *[("epoll_create1", error) for error in ("EMFILE", "ENOMEM")],
    *[("socketpair", "EMFILE"), ("eventfd2", "EMFILE"), ("pipe2", "EMFILE"), ("ioctl", "EIO")],
    *[("epoll_ctl", error) for error in ("ENOMEM", "ENOSPC")],
    *[(call, e) for call in ("epoll_wait", "epoll_pwait") for e in ("EINTR", "EINVAL", "ENOMEM")],
    *[("mmap", "ENOMEM"), ("munmap", "ENOMEM"), ("brk", "ENOMEM"), ("futex", "EINTR")],
]
"""Of the loop, or of the process."""
FEW = [("socket", "EMFILE"), ("connect", "ENETUNREACH"), ("sendto", "EPIPE"), ("recvfrom", "EIO")]


class Client:
    """Three servers, and a program that uses them.

    Attributes:
        told: the cases in which a call failed, with what it said.
    """

    def __init__(self, path, cluster, loop):
        self.path = path
        self.url = cluster.url
        self.loop = loop
        self.cases = 0
        self.told = {}
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", CLIENT, self.url, self.loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.run("first") == ("well", self.acked)

    def run(self, case):
        """One load; how it ended, and what was acknowledged."""
        self.acked = {}
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            word, _, rest = line.partition(" ")
            if not word.isdigit():
                return (word + " " + rest).strip(), self.acked
            self.acked[int(word), int(rest)] = f"{case}/{int(rest)}".encode() + bytes(3000)
        said = self.process.stderr.read()
        assert self.process.wait(30) != 0
        return f"ended {said}", self.acked

    def fail(self, call, error, when):
        """One case; returns whether the call was made that often."""
        self.cases += 1
        self.go_on()
        trace = self.path / f"{self.loop}-{self.cases}"
        refusal = Refusal(self.process.pid, trace, call, error, when)
        try:
            how, acked = self.run(f"{call}-{error}-{when}")
        finally:
            injected = refusal.end()
        asyncio.run(self.check(acked))
        if how != "well":
            assert injected
            # libuv aborts where the kernel gives it no memory.
            assert "Error" in how or "Fatal" in how, f"it ended without a word: {how}"
            self.told[call, error, when] = how
            if how.startswith("ended"):
                self.close()
                self.start()
        return injected

    def go_on(self):
        """Start again if it ended after all was well, which it must have told."""
        if self.process.poll() is not None:
            said = self.process.stderr.read()
            self.close()
            self.start()
            assert "Fatal" in said

    async def check(self, acked):
        async with wormspace.connect(self.url, timeout=30) as worm:
            for number in sorted({n for n, _ in acked}):
                values = await (await worm.space("s").segment(number)).read_range()
                for offset in range(WRITES):
                    if (number, offset) in acked:
                        assert values[offset] == acked[number, offset]

    def close(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = ProcessCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster.start()
    finally:
        cluster.close()


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def client(tmp_path_factory, cluster, request):
    it = Client(tmp_path_factory.mktemp("client"), cluster, request.param)
    yield it
    it.close()


@pytest.mark.parametrize("client", ["asyncio"], indirect=True)
def test_a_call_of_a_connection_that_the_kernel_refuses_costs_a_client_nothing(client):
    for call, error in FEW:
        assert client.fail(call, error, 2), f"a client does not call {call} any more"
    assert not client.told


@pytest.mark.soak
@pytest.mark.parametrize(("call", "error"), CONNECTION)
def test_no_call_of_a_connection_that_the_kernel_refuses_costs_a_client(client, call, error):
    refused = each_moment(lambda when: client.fail(call, error, when))
    told = {case: how for case, how in client.told.items() if case[:2] == (call, error)}
    assert told == {}
    if not refused:
        pytest.skip(f"a client on {client.loop} does not call {call}")


@pytest.mark.soak
@pytest.mark.parametrize(("call", "error"), LOOP)
def test_a_client_whose_loop_the_kernel_refuses_a_call_says_so_or_goes_on(client, call, error):
    if not each_moment(lambda when: client.fail(call, error, when)):
        pytest.skip(f"a client on {client.loop} does not call {call}")
