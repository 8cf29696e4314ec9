"""A connection to HOST:PORT whose name is looked up without holding anybody up.

The system's look-up blocks a thread, for many seconds if its name server is silent.  asyncio gives
it a thread of the loop's executor, where it takes a place that others need, and where the end of
the program waits for it.  Here it has a thread of its own, which nobody waits for, and at most one
for each name.  Names are looked up anew for each connection, since addresses change.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

Protocol = TypeVar("Protocol", bound=asyncio.BaseProtocol)

_lock = threading.Lock()
_waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Future[list[str]]]]] = {}


async def dial(
    factory: Callable[[], Protocol], host: str, port: int
) -> tuple[asyncio.Transport, Protocol]:
    """Connect to the first address of `host` that takes the connection.

    Raises:
        OSError: there is no such name, or none of its addresses takes it.
    """
    loop = asyncio.get_running_loop()
    failed = OSError(f"{host} has no address")
    for address in await _addresses(loop, host):
        try:
            return await loop.create_connection(factory, address, port)
        except OSError as e:
            failed = e
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
        threading.Thread(target=_look_up, args=(host,), name=f"look up {host}", daemon=True).start()
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
    except UnicodeError:
        error = OSError(f"{host!r} is no host name")
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
