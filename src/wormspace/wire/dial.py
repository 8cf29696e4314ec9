"""A connection to HOST:PORT whose name is looked up without holding anybody up.

The system's look-up blocks a thread, for many seconds if its name server is silent.  asyncio gives
it a thread of the loop's executor, where it takes a place that others need, and where the end of
the program waits for it.  Here it has a thread of its own, which nobody waits for, and at most one
for each name.  Names are looked up anew for each connection, since addresses change.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

Protocol = TypeVar("Protocol", bound=asyncio.BaseProtocol)

CONNECT_S = 2.0
"""How long connecting may take, and then greeting."""

ADDRESS_S = 0.5
"""How long one of several addresses may be silent before the next one is tried."""

_lock = threading.Lock()
_waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Future[list[str]]]]] = {}


def _forget_in_child() -> None:
    """A fork has none of the threads that look up what is waited for, or hold the lock."""
    global _lock
    _lock = threading.Lock()
    _waiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


async def dial(
    factory: Callable[[], Protocol], host: str, port: int
) -> tuple[asyncio.Transport, Protocol]:
    """Connect to the first address of `host` that takes the connection.

    Raises:
        OSError: there is no such name, it cannot be looked up, or none of its addresses takes it
            within `CONNECT_S`.
    """
    loop = asyncio.get_running_loop()
    failed = OSError(f"{host} has no address")
    try:
        async with asyncio.timeout(CONNECT_S):
            addresses = await _addresses(loop, host)
            for left, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
                try:
                    async with asyncio.timeout(ADDRESS_S if left else None):
                        return await loop.create_connection(factory, address, port)
                except OSError as e:
                    failed = e
    except TimeoutError:
        raise OSError("connecting timed out") from None
    raise failed


async def _addresses(loop: asyncio.AbstractEventLoop, host: str) -> list[str]:
    if _is_address(host) or not _is_real(loop):
        return [host]
    found: asyncio.Future[list[str]] = loop.create_future()
    with _lock:
        waiting = _waiting.setdefault(host, [])
        waiting.append((loop, found))
        alone = len(waiting) == 1
    if alone:
        look_up = threading.Thread(
            target=_look_up, args=(host,), name=f"look up {host}", daemon=True
        )
        try:
            look_up.start()
        except (RuntimeError, MemoryError) as e:
            _tell_all(host, [], OSError(f"{host} cannot be looked up: {e}"))
    return await found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_real(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop is one of the system's sockets: names of a simulated world are its own."""
    return isinstance(loop, asyncio.BaseEventLoop) or type(loop).__module__ == "uvloop"


def _look_up(host: str) -> None:
    """Find the addresses of `host`, and tell all who wait for them; in a thread."""
    error: OSError | None = None
    addresses: list[str] = []
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    except OSError as e:
        error = e
    except ValueError:
        error = OSError(f"{host!r} is no host name")
    except Exception as e:  # noqa: BLE001 - whoever waits would wait for ever, and all after them
        error = OSError(f"{host} cannot be looked up: {type(e).__name__}: {e}")
    _tell_all(host, addresses, error)


def _tell_all(host: str, addresses: list[str], error: OSError | None) -> None:
    """Tell all who wait for the addresses of `host`; in any thread."""
    with _lock:
        waiting = _waiting.pop(host)
    for loop, future in waiting:
        try:
            loop.call_soon_threadsafe(_tell, future, addresses, error)
        except RuntimeError:
            pass  # that loop has ended meanwhile


def _tell(future: asyncio.Future[list[str]], addresses: list[str], error: OSError | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(addresses)
