"""HOST:PORT is read and written in one way everywhere, and what is none is refused everywhere."""

import asyncio

import click
import pytest

from wormspace.cli.arguments import endpoints, listening_at
from wormspace.connecting import survey
from wormspace.errors import BadUrl, UsageError
from wormspace.runtime.endpoints import Endpoint, as_listening
from wormspace.server.config import ClusterConfig, ServerConfig
from wormspace.smr.records import Member
from wormspace.tx import RemoteStore

NONE = ["", "host", "host:", ":80", "h:0", "h:65536", "h:99999", "h:-1", "h:+1", "h:x", "h:000080"]
NONE += [
    "h:²",
    "h:\u0661",
    "::1:7001",
    "[h]:1",
    "[::1:7001",
    "::1]:7001",
    "[]:1",
    "[[::1]]:1",
    "h: 1",
]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_endpoint_is_refused_by_all_who_are_given_one(text):
    for read in (Endpoint.parse, lambda text: RemoteStore("store", text)):
        with pytest.raises(UsageError, match="is not HOST:PORT"):
            read(text)
    with pytest.raises(BadUrl):
        asyncio.run(survey(f"worm://{text}"))
    with pytest.raises(click.BadParameter, match="is not HOST:PORT"):
        endpoints(f"h:1,{text}")


@pytest.mark.parametrize("given", [5, None, b"h:1", ("h", 1)])
def test_what_is_no_text_names_none(given):
    with pytest.raises(UsageError, match="is not HOST:PORT"):
        Endpoint.parse(given)


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [
        ("h", 1, "h:1"),
        ("127.0.0.1", 65535, "127.0.0.1:65535"),
        ("::1", 7001, "[::1]:7001"),
        ("fe80::1%eth0", 80, "[fe80::1%eth0]:80"),
    ],
)
def test_what_is_shown_is_read_again(host, port, text):
    assert str(Endpoint(host, port)) == f"{Endpoint(host, port)}" == text
    assert Endpoint.parse(text) == (host, port)
    assert endpoints(text) == [(host, port)]
    assert text in str(Member("r", b"id", host, port))
    for written in (host, text.rpartition(":")[0]):
        server = ServerConfig("s1", written, port, "s1")
        assert ClusterConfig("c", [server]).url == f"worm://{text}?cluster=c"


def test_an_ipv6_address_without_brackets_is_told_how_to_be_written():
    with pytest.raises(UsageError, match=r"'::1:7001' is not HOST:PORT; an IPv6 .* \[HOST\]:PORT"):
        Endpoint.parse("::1:7001")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("80", ("127.0.0.1", 80)),
        (":0", ("127.0.0.1", 0)),
        ("h:80", ("h", 80)),
        ("[::]:0", ("::", 0)),
    ],
)
def test_metrics_are_served_at_a_port_of_this_machine_or_where_it_is_said(text, found):
    assert listening_at(text) == found


@pytest.mark.parametrize("text", ["", "x", "65536", "h:", "h:65536", "::1", "::1:80"])
def test_nothing_is_served_at_what_is_no_port(text):
    with pytest.raises(click.BadParameter, match="is not PORT or HOST:PORT"):
        listening_at(text)


def test_a_port_to_listen_on_may_be_the_systems_choice():
    for port in (0, 65_535):
        assert as_listening("h", port) == ("h", port)
    for port in (-1, 65_536, True, "1", 1.0, None):
        with pytest.raises(UsageError, match=f"a port is an int from 0 to 65535, not {port!r}"):
            as_listening("h", port)
    for host in (1, None, b"h"):
        with pytest.raises(UsageError, match=f"a host is a str, not {host!r}"):
            as_listening(host, 1)
