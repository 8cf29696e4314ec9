"""The parts of asyncio's event loop that have no meaning in a simulated world."""

from __future__ import annotations

import asyncio
from typing import Any


def _raise_not_simulated(*args: object, **options: object) -> Any:
    raise NotImplementedError("this method of the event loop is not simulated")


_refuse: Any = _raise_not_simulated


class UnsupportedMethods(asyncio.AbstractEventLoop):
    """Refuses what SimLoop does not provide: file descriptors, signals, child processes, pipes."""

    add_reader = _refuse
    add_signal_handler = _refuse
    add_writer = _refuse
    connect_accepted_socket = _refuse
    connect_read_pipe = _refuse
    connect_write_pipe = _refuse
    create_datagram_endpoint = _refuse
    create_unix_connection = _refuse
    create_unix_server = _refuse
    get_task_factory = _refuse
    getnameinfo = _refuse
    remove_reader = _refuse
    remove_signal_handler = _refuse
    remove_writer = _refuse
    sendfile = _refuse
    set_default_executor = _refuse
    set_task_factory = _refuse
    sock_accept = _refuse
    sock_connect = _refuse
    sock_recv = _refuse
    sock_recv_into = _refuse
    sock_recvfrom = _refuse
    sock_recvfrom_into = _refuse
    sock_sendall = _refuse
    sock_sendfile = _refuse
    sock_sendto = _refuse
    start_tls = _refuse
    subprocess_exec = _refuse
    subprocess_shell = _refuse
