"""A census of the system's calls: none is made that the injectors do not know.

Who adds a call to the store has to say here how it is made to fail.
"""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from injecting import CALLS

import wormspace.store
from wormspace.runtime.disk import SystemDisk
from wormspace.store.files import SystemFiles

STORE = Path(wormspace.store.__file__).parent
SERVER, RUNTIME = STORE.parent / "server", STORE.parent / "runtime"

ELSEWHERE = {
    # Module of the server: the calls that it makes itself, and why they are not the store's.
    "config.py": {"path.read_bytes"},  # the cluster file, before anything is open
    "runner.py": {"directory.is_dir"},  # before
    "logs.py": {"os.write", "time.strftime", "time.gmtime"},  # an error costs a line
    "descriptors.py": {"resource.getrlimit", "resource.setrlimit"},  # at the start; may fail
}
PURE = {"os.strerror"}
MODULES = {"fcntl", "lmdb", "mmap", "os", "resource", "shutil", "socket", "subprocess", "tempfile"}
OF_PATHS = {
    *("chmod", "exists", "glob", "is_dir", "is_file", "iterdir", "mkdir", "open", "read_bytes"),
    *("read_text", "rename", "resolve", "rmdir", "stat", "touch", "unlink"),
    *("write_bytes", "write_text"),
}


def calls_of(path):
    """What a module calls that may be a call of the system."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        owner, _, method = name.rpartition(".")
        is_ours = owner.split(".")[-1] in ("files", "_files", "_system", "_txn", "_env", "cursor")
        of_module = name.partition(".")[0] in {*MODULES, "time"} and "." in name
        if name == "open" or of_module or (method in OF_PATHS and owner and not is_ours):
            yield name


@pytest.mark.parametrize(
    "path",
    [path for package in (STORE, SERVER, RUNTIME) for path in package.glob("*.py")],
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_no_module_calls_the_system_past_files(path):
    if path in (STORE / "files.py", RUNTIME / "disk.py"):
        return
    allowed = PURE | (ELSEWHERE.get(path.name, set()) if path.parent == SERVER else set())
    assert {*calls_of(path)} <= allowed, "go through wormspace.store.files.Files"


def test_every_call_of_files_can_be_made_to_fail():
    every = {**vars(SystemFiles), **vars(SystemDisk)}
    own = {name for name in every if not name.startswith("_")}
    assert own == set(CALLS)


KNOWN = {
    # of `Files`: made to fail there (tests/store/test_injection.py)
    *("openat", "pread64", "pwritev2", "fsync", "fdatasync", "ftruncate", "fallocate", "flock"),
    *("newfstatat", "fstat", "statx", "statfs", "fstatfs", "mkdir", "readlink", "lseek", "read"),
    "rename",
    # of LMDB, on data.mdb: made to fail by strace (tests/store/test_inject_calls.py)
    *("pwrite64", "lseek", "writev", "mmap", "munmap", "uname"),
    # of the interpreter: memory, threads, signals; an error is an exception, or ends the process
    *(
        "brk",
        "madvise",
        "mprotect",
        "mremap",
        "clone",
        "clone3",
        "futex",
        "set_robust_list",
        "rseq",
    ),
    *("rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "sched_yield", "gettid", "getpid"),
    *("sched_getaffinity", "prctl", "sigaltstack", "exit", "exit_group", "clock_gettime"),
    *(
        "clock_nanosleep",
        "restart_syscall",
        "getrandom",
        "prlimit64",
        "sysinfo",
        "getcwd",
        "access",
    ),
    # what cannot fail, or whose error is ignored
    *("close", "ioctl", "fcntl", "dup", "getdents64", "getrusage"),
    # sockets and the event loop: an error ends the connection, or the server, and never the store
    *("socket", "socketpair", "bind", "listen", "accept4", "connect", "getsockname", "getpeername"),
    *("setsockopt", "getsockopt", "sendto", "sendmsg", "recvfrom", "recvmsg", "write"),
    *("shutdown", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "poll", "eventfd2"),
    *("pipe2", "io_uring_setup", "io_uring_enter", "io_uring_register", "epoll_pwait2", "readv"),
}

WORK = """
import asyncio, sys
from pathlib import Path
import uvloop
import wormspace
from wormspace.knobs import turned
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.listener import Server
from wormspace.server.storage import AcceptorStore

async def main():
    engine = AcceptorStore(Path(sys.argv[1]) / "new" / "store")
    server = Server(ServerIdentity("c", "s"), engine, Limits())
    port = await server.start("127.0.0.1", 0)
    async with wormspace.connect(f"worm://127.0.0.1:{port}", timeout=30) as worm:
        space = worm.space("s")
        segment = await space.alloc(size=100)
        token = (await segment.capture()).token
        for n in range(60):
            await segment.write(n, bytes(20_000), token)
        await segment.read_range(0, 60)
        await segment.trim()
    await server.stop()

with turned(store_checkpoint_bytes=100_000, store_map_bytes=1 << 18, store_inline_after=40):
    sys.stderr.write("the census begins\\n")
    uvloop.run(main())
    sys.stderr.write("the census ends\\n")
"""


@pytest.mark.processes
def test_a_server_and_its_client_make_no_call_that_is_not_known(tmp_path):
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed (make databases installs it)")
    trace = tmp_path / "trace"
    done = subprocess.run(
        [strace, "-f", "-o", trace, sys.executable, "-c", WORK, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip(f"strace cannot be used here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    text = trace.read_text().split("the census begins")[1].split("the census ends")[0]
    seen = set(re.findall(r"^\d+ +(\w+)\(", text, re.M))
    assert {"pwritev2", "pwrite64", "fdatasync", "accept4"} <= seen
    assert seen <= KNOWN, f"say in this file how these are made to fail: {sorted(seen - KNOWN)}"
