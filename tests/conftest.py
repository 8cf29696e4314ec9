"""What all tests share: `async def` tests, and the implementations and clusters they run on.

An `async def` test runs on the `runner` of its own, under a limit: a test that hangs fails.
"""

import asyncio
import inspect
import logging
import re
import signal

import pytest

from reaching import (  # noqa: F401 - hooks
    pytest_runtest_call,
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)

TEST_LIMIT_S = 90.0

OF_ONE_PROCESS = re.compile(r" at 0x[0-9a-f]|\{[\d'\"(-][^{}:]*,[^{}:]*\}")
"""An object's address, or a set of constants: what differs from process to process."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell started us in the background: what tests start would not hear Ctrl-C either.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def runner():
    """The event loop of one test; asynchronous fixtures set up and tear down on it too."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(autouse=True)
def _log_as_it_was():
    """What one test does to the loggers, another must not notice."""
    logger = logging.getLogger("wormspace")
    before = logger.level, logger.propagate, list(logger.handlers)
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.handlers = before[1:]


def pytest_collection_modifyitems(items):
    """Refuse names that are others in each process: tests are shared out among some by name."""
    for item in items:
        if found := OF_ONE_PROCESS.search(item.nodeid):
            raise pytest.UsageError(
                f"a test's name holds {found[0]!r}, an address or the order of a set, which are "
                f"others in the next process; give it ids=: {item.nodeid}"
            )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run an `async def` test on its runner."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    marker = pyfuncitem.get_closest_marker("soak")
    limit = None if marker else TEST_LIMIT_S

    async def limited():
        async with asyncio.timeout(limit):
            await pyfuncitem.obj(**given)

    runner = pyfuncitem.funcargs.get("runner")
    if runner is not None:
        runner.run(limited())
    else:
        asyncio.run(limited())
    return True
