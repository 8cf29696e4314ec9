"""What the system is told of a connection, so that a peer that died silently is noticed."""

from __future__ import annotations

import socket

import pytest

from wormspace.wire import keepalive


class Socket:
    """Notes its options."""

    def __init__(self) -> None:
        self.options: dict[tuple[int, int], int] = {}

    def setsockopt(self, level, option, value):
        self.options[level, option] = value


class Transport:
    def __init__(self, sock) -> None:
        self.sock = sock

    def get_extra_info(self, name):
        return {"socket": self.sock}[name]


@pytest.mark.parametrize("missing", [None, "TCP_USER_TIMEOUT", "TCP_KEEPIDLE"])
def test_an_idle_connection_is_probed_and_what_is_sent_has_its_time(missing, monkeypatch) -> None:
    wanted = {
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 15_000,
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 10,
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 5,
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 3,
    }
    if missing is not None:  # not every system has it
        del wanted[socket.IPPROTO_TCP, getattr(socket, missing)]
        monkeypatch.delattr(socket, missing)
    sock = Socket()
    keepalive.keep_alive(Transport(sock))
    assert sock.options == wanted


def test_a_connection_without_a_socket_of_the_systems_is_left_alone() -> None:
    keepalive.keep_alive(Transport(None))
