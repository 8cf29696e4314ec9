"""Addresses, arguments and the client itself: what they take, and what they say to the rest."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.space.made import Made, now

from wires import simulated
from wormspace import Address, BadAddress, BadToken, UsageError
from wormspace.knobs import turned
from wormspace.space.arguments import (
    as_bytes,
    as_int,
    as_name,
    as_rng,
    as_timeout,
    as_token,
)
from wormspace.space.client import Client
from wormspace.space.stream import Stream


@pytest.mark.parametrize("size", [1, 7, 1024])
def test_addresses_count_as_the_registers_do(size):
    for position in (0, 1, size - 1, size, 5 * size + 3 % size):
        address = Address.of(position, size)
        assert 0 <= address.offset < size
        assert address.segment * size + address.offset == address.position(size) == position
    assert Address.of(17, 7) == (2, 3)
    assert Address(2, 3).position(7) == 17


@pytest.mark.parametrize(("position", "size"), [(-1, 7), (3, 0), (3, -7), ("3", 7), (3, None)])
def test_an_address_of_what_is_no_position_is_refused(position, size):
    with pytest.raises(BadAddress, match=r"(a position|a segment's size) is "):
        Address.of(position, size)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0/0", (0, 0)),
        ("12/345", (12, 345)),
        ("1" * 19 + "/1", (int("1" * 19), 1)),
        ("1" * 20 + "/1", None),
        ("1/" + "1" * 20, None),
        ("1", None),
        ("1/", None),
        ("/1", None),
        ("1/2/3", None),
        ("-1/2", None),
        ("1/ 2", None),
        ("\u0661/1", None),
        ("1/\u00b2", None),
        (12, None),
    ],
)
def test_an_address_is_two_numbers(text, address):
    if address is None:
        with pytest.raises(BadAddress, match="an address is SEGMENT/OFFSET, not"):
            Address.parse(text)
    else:
        assert Address.parse(text) == address
        assert str(Address.parse(text)) == text


def test_a_long_text_is_not_repeated_whole():
    with pytest.raises(BadAddress) as caught:
        Address.parse("x" * 1000)
    assert str(caught.value).endswith("not '" + "x" * 79)


def test_what_is_passed_is_taken_as_it_is_or_refused_by_its_name():
    assert as_int(-5, "n") == -5
    assert as_bytes(b"v", "v") == as_bytes(bytearray(b"v"), "v") == as_bytes(memoryview(b"v"), "v")
    assert as_name("é" * 127 + "x") == "é" * 127 + "x"
    assert as_name("x" * 255) == "x" * 255
    assert as_timeout(1) == 1.0
    assert type(as_timeout(1)) is float
    assert as_timeout(1e9) == 1e9
    rng = random.Random(1)
    assert as_rng(rng) is rng
    assert isinstance(as_rng(None), random.SystemRandom)
    for call, value, error, says in [
        (lambda v: as_int(v, "n"), True, BadAddress, "^n is an int, not the bool True$"),
        (lambda v: as_int(v, "n"), 1.5, BadAddress, r"^n is an int, not the float 1\.5$"),
        (lambda v: as_int(v, "n"), None, BadAddress, "^n is an int, not NoneType$"),
        (lambda v: as_bytes(v, "v"), "v", UsageError, "^v is bytes, not str; encode it$"),
        (lambda v: as_bytes(v, "v"), 5, UsageError, "^v is bytes, not int$"),
        (as_name, 5, BadAddress, "^a space name is a str, not int$"),
        (as_name, "", BadAddress, "^a space name has 1 to 255 bytes, not 0$"),
        (as_name, "é" * 128, BadAddress, "^a space name has 1 to 255 bytes, not 256$"),
        (as_name, "\ud800", BadAddress, "^a space name is valid Unicode: surrogates not allowed"),
        (as_timeout, 0, UsageError, r"a positive number of seconds, up to 1e\+09, not 0$"),
        (as_timeout, -1, UsageError, "a positive number of seconds, .* not -1$"),
        (as_timeout, 1e9 + 1, UsageError, "a positive number of seconds"),
        (as_timeout, float("nan"), UsageError, "a positive number of seconds, .* not nan"),
        (as_timeout, True, UsageError, "^a timeout is a number of seconds, not the bool True$"),
        (as_timeout, "1", UsageError, "^a timeout is a number of seconds, not str$"),
        (as_rng, 5, UsageError, r"^rng is a random\.Random, not int$"),
        (as_token, 5, BadToken, "^a token is what a capture returned, not int$"),
        (as_token, "x", BadToken, r"not str; Token\.parse reads its text$"),
    ]:
        with pytest.raises(error, match=says):
            call(value)


def test_a_client_hands_out_one_handle_for_a_space_and_asks_with_its_own_patience():
    async def work():
        made = Made()
        asked = []

        async def spaces(deadline):
            asked.append(deadline - now())
            return ["s"]

        async def close():
            asked.append("close")

        made.spaces = made.servers = spaces
        made.close = close
        client = Client(made, random.Random(1), timeout=7)  # type: ignore[arg-type]
        assert client.space("a") is client.space("a")
        assert (client.space("a").name, client.space("a").client) == ("a", client)
        assert client.space("b") is not client.space("a")
        assert await client.spaces() == await client.servers() == ["s"]
        assert await client.spaces(timeout=2) == await client.servers(timeout=3) == ["s"]
        async with client as same:
            assert same is client
        assert asked == [7, 7, 2, 3, "close"]
        first, second = client.nonce(), client.nonce()
        assert len(first) == len(second) == 16
        assert first != second
        with turned(space_handles_kept=2):
            a = client.space("a")
            client.space("c")
            assert list(client._spaces) == ["b", "c"]
            assert client.space("a") is not a
        for wrong in ([], "", 5):
            with pytest.raises(BadAddress):
                client.space(wrong)

    simulated(work)


async def test_a_client_is_used_on_its_own_loop():
    client = Made().client

    async def elsewhere():
        with pytest.raises(UsageError, match="on the event loop on which it was opened"):
            client.deadline(1)

    await asyncio.to_thread(asyncio.run, elsewhere())
    with pytest.raises(UsageError, match=r"threads use wormspace\.sync"):
        await asyncio.to_thread(client.deadline, 1)
    assert client.deadline(1) < client.deadline(100)


class Numbers(Stream[int]):
    """Items that a test puts in, some at a time; an exception is raised."""

    def __init__(self, released: list, *batches) -> None:
        super().__init__(lambda: released.append("released"))
        self.batches = list(batches)
        self.asked = 0

    async def _more(self) -> None:
        self.asked += 1
        batch = self.batches.pop(0)
        if isinstance(batch, Exception):
            raise batch
        self._items.extend(batch)


async def test_a_stream_asks_for_more_when_it_has_nothing_left():
    released: list[str] = []
    async with Numbers(released, [1, 2], [], [3], StopAsyncIteration()) as stream:
        assert aiter(stream) is stream
        assert [await anext(stream) for _ in range(2)] == [1, 2]
        assert stream.asked == 1
        assert await anext(stream) == 3
        assert stream.asked == 3
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        assert stream.asked == 4
        assert released == ["released"]
    assert released == ["released"]


async def test_a_stream_that_is_closed_has_nothing_any_more():
    released: list[str] = []
    stream = Numbers(released, [1, 2])
    assert await anext(stream) == 1
    await stream.close()
    await stream.close()
    assert released == ["released"]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert stream.asked == 1
    dropped = Numbers(released, [1])
    del dropped
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert released == ["released"] * 2
