"""The network: streams like TCP's, faults on the way, and frames that get lost."""

import asyncio

import pytest

from wormspace.sim import Loss, NetworkOptions, World
from wormspace.sim.latency import constant, skewed, uniform


class Recorder(asyncio.Protocol):
    """Keeps what happens to it."""

    def __init__(self, echo=False):
        self.events = []
        self.received = b""
        self.echo = echo
        self.over = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def data_received(self, data):
        self.received += data
        self.note(("data", len(data)))
        if self.echo:
            self.transport.write(data)

    def eof_received(self):
        self.note("eof")

    def pause_writing(self):
        self.note("pause")

    def resume_writing(self):
        self.note("resume")

    def connection_lost(self, error):
        self.note(("lost", type(error).__name__ if error else None))
        if not self.over.done():
            self.over.set_result(error)

    def note(self, event):
        self.events.append(event)
        self.changed.set()


class Pair:
    """A server on s1 and a client on c1, connected; `body(pair)` runs in the client's process."""

    def __init__(self, body, seed=1, echo=False, **options):
        self.body, self.seed, self.echo, self.options = body, seed, echo, options
        self.accepted = []

    def _accept(self):
        self.accepted.append(Recorder(self.echo))
        return self.accepted[-1]

    async def _serve(self):
        server = await asyncio.get_running_loop().create_server(self._accept, "s1", 7000)
        await server.serve_forever()

    async def _client(self):
        loop = asyncio.get_running_loop()
        self.transport, self.client = await loop.create_connection(lambda: Recorder(), "s1", 7000)
        await asyncio.sleep(0)
        self.server = self.accepted[0]
        return await self.body(self)

    async def _drive(self):
        self.server_process = self.world.spawn("s1", self._serve)
        await asyncio.sleep(0)
        self.client_process = self.world.spawn("c1", self._client)
        return await self.client_process.wait()

    def run(self):
        with World(self.seed, network=NetworkOptions(**self.options)) as self.world:
            self.result = self.world.run(self._drive(), deadline_s=1000)
            self.messages = self.world.network.messages
        return self


def test_bytes_arrive_whole_and_in_order_in_whatever_pieces():
    sent = b"".join(bytes([n % 256]) * (n % 97) for n in range(2000))

    async def body(pair):
        for at in range(0, len(sent), 777):
            pair.transport.write(sent[at : at + 777])
            if at % 5 == 0:
                await asyncio.sleep(0.0001)
        pair.transport.writelines([b"the", b"end"])
        pair.transport.close()
        await pair.server.over

    pair = Pair(body, latency=skewed(0.001, 0.01), split=0.5).run()
    assert pair.server.received == sent + b"theend"
    assert pair.server.events[-2:] == ["eof", ("lost", None)]
    assert pair.client.events == ["made", ("lost", None)]


def test_the_peers_know_each_others_names():
    async def body(pair):
        return pair.transport.get_extra_info("peername"), pair.transport.get_extra_info("sockname")

    pair = Pair(body).run()
    there, here = pair.result
    assert there == ("s1", 7000)
    assert here[0] == "c1"
    assert pair.server.transport.get_extra_info("peername") == here


def test_a_message_takes_one_unit_of_time_when_delays_are_counted():
    times = []

    async def server():
        loop = asyncio.get_running_loop()
        await loop.create_server(lambda: Recorder(echo=True), port=7000)
        await asyncio.Event().wait()

    async def client():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(Recorder, "s1", 7000)
        for _ in range(3):
            start = loop.time()
            protocol.changed.clear()
            transport.write(b"ping")
            await protocol.changed.wait()
            times.append(loop.time() - start)

    with World.counting_delays() as world:
        world.spawn("s1", server)
        world.run(world.spawn("c1", client).wait())
    assert times == [2.0, 2.0, 2.0]


def test_a_slow_reader_pauses_the_writer_until_it_reads():
    async def body(pair):
        pair.server.transport.pause_reading()
        for _ in range(100):
            pair.transport.write(b"x" * 10_000)
        assert pair.client.events[-1] == "pause"
        buffered = pair.transport.get_write_buffer_size()
        assert buffered > 64 * 1024
        await asyncio.sleep(10)
        assert pair.server.received == b""
        assert pair.transport.get_write_buffer_size() == buffered
        assert not pair.server.transport.is_reading()
        pair.server.transport.resume_reading()
        await asyncio.sleep(1)
        assert pair.client.events[-1] == "resume"
        assert pair.transport.get_write_buffer_size() == 0
        assert len(pair.server.received) == 1_000_000

    Pair(body, window_bytes=50_000).run()


def test_close_sends_what_is_buffered_first():
    async def body(pair):
        for _ in range(100):
            pair.transport.write(b"x" * 10_000)
        pair.transport.close()
        pair.transport.write(b"ignored")
        assert pair.transport.is_closing()
        await pair.server.over
        return len(pair.server.received)

    assert Pair(body, window_bytes=20_000).run().result == 1_000_000


def test_abort_resets_the_peer():
    async def body(pair):
        pair.transport.abort()
        return await pair.server.over, await pair.client.over

    there, here = Pair(body).run().result
    assert isinstance(there, ConnectionResetError)
    assert here is None


def test_a_half_closed_stream_still_carries_the_other_direction():
    async def body(pair):
        pair.server.eof_received = lambda: True  # stay open
        pair.transport.write(b"question")
        pair.transport.write_eof()
        await asyncio.sleep(1)
        pair.server.transport.write(b"answer")
        pair.server.transport.close()
        await pair.client.over
        return pair.server.received, pair.client.received

    assert Pair(body).run().result == (b"question", b"answer")


def test_bytes_for_a_closed_socket_are_answered_with_a_reset():
    async def body(pair):
        pair.server.eof_received = lambda: True
        pair.transport.close()
        await asyncio.sleep(1)
        pair.server.transport.write(b"anybody there?")
        return await pair.server.over

    assert isinstance(Pair(body).run().result, ConnectionResetError)


def test_a_short_cut_delays_bytes_and_a_long_one_breaks_the_stream():
    async def body(pair):
        cut = pair.world.network.cut(["c1"], ["s1"])
        pair.transport.write(b"late")
        await asyncio.sleep(1)
        assert pair.server.received == b""
        pair.world.network.heal(cut)
        await asyncio.sleep(1)
        assert pair.server.received == b"late"

        pair.world.network.cut(["c1"])
        pair.transport.write(b"never")
        error = await pair.client.over
        assert isinstance(error, TimeoutError)
        await asyncio.sleep(100)
        assert not pair.server.over.done()  # it has sent nothing, so it knows nothing
        pair.world.network.heal()
        assert isinstance(await pair.server.over, ConnectionResetError)
        return pair.server.received

    assert Pair(body).run().result == b"late"


def test_a_one_way_cut_leaves_the_other_direction_alone():
    async def body(pair):
        pair.world.network.cut(["s1"], ["c1"], one_way=True)
        pair.transport.write(b"ping")
        await asyncio.sleep(1)
        return pair.server.received, pair.client.received

    assert Pair(body, echo=True).run().result == (b"ping", b"")


def test_overlapping_cuts_heal_one_by_one():
    async def body(pair):
        network = pair.world.network
        first, second = network.cut(["c1"], ["s1"]), network.cut(["s1"])
        pair.transport.write(b"x")
        network.heal(first)
        await asyncio.sleep(1)
        assert pair.server.received == b""
        network.heal(second)
        await asyncio.sleep(1)
        return pair.server.received

    assert Pair(body).run().result == b"x"


def test_a_reset_fault_breaks_both_ends():
    async def body(pair):
        pair.transport.write(b"lost on the way")
        assert pair.world.network.reset("s1") == 1
        return await pair.client.over, await pair.server.over

    pair = Pair(body).run()
    assert all(isinstance(error, ConnectionResetError) for error in pair.result)
    assert pair.server.received == b""


def test_a_slow_host_is_slow():
    async def body(pair):
        loop = asyncio.get_running_loop()
        spans = []
        for factor in (1, 10):
            pair.world.network.slow("s1", factor)
            start = loop.time()
            pair.client.changed.clear()
            pair.transport.write(b"x")
            await pair.client.changed.wait()
            spans.append(loop.time() - start)
        return spans

    quick, slow = Pair(body, echo=True, latency=constant(0.01)).run().result
    assert quick == pytest.approx(0.02)
    assert slow == pytest.approx(0.2)


async def _connect(port=7000, host="s1"):
    await asyncio.get_running_loop().create_connection(Recorder, host, port)


def test_connecting_is_refused_where_nobody_listens_and_times_out_where_nobody_is():
    with World(1) as world:
        world.host("s1")
        with pytest.raises(ConnectionRefusedError):
            world.run(world.spawn("c1", _connect, may_fail=True).wait())
        assert world.now < 0.1
        world.network.cut(["s1"])
        start = world.now
        with pytest.raises(TimeoutError):
            world.run(world.spawn("c1", _connect, may_fail=True).wait())
        assert 3 <= world.now - start <= 11
        world.network.heal()
        world.host("s1").crash()
        with pytest.raises(TimeoutError):
            world.run(world.spawn("c1", _connect, may_fail=True).wait())


def test_a_cancelled_connect_leaves_nothing_behind():
    async def body(pair):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.015):  # accepted by the server, not yet known here
                await _connect()
        await asyncio.sleep(1)
        return await pair.accepted[1].over

    assert isinstance(Pair(body, latency=constant(0.01)).run().result, ConnectionResetError)


def test_listening_follows_the_rules_of_addresses():
    async def server():
        loop = asyncio.get_running_loop()
        first = await loop.create_server(Recorder, "0.0.0.0", 7000)
        with pytest.raises(OSError, match="in use"):
            await loop.create_server(Recorder, "s1", 7000)
        with pytest.raises(OSError, match="not an address"):
            await loop.create_server(Recorder, "s2", 7001)
        other = await loop.create_server(Recorder, "localhost", 0)
        assert first.sockets[0].getsockname() == ("s1", 7000)
        await _connect(other.sockets[0].getsockname()[1], "127.0.0.1")
        first.close()
        await first.wait_closed()
        assert not first.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await _connect()
        await loop.create_server(Recorder, "s1", 7000)

    with World(1) as world:
        world.run(world.spawn("s1", server).wait())


def test_asyncio_streams_work_too():
    async def serve():
        async def echo(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(echo, "s1", 7000) as server:
            await server.serve_forever()

    async def ask():
        reader, writer = await asyncio.open_connection("s1", 7000)
        writer.write(b"hello\n")
        answer = await reader.read()
        writer.close()
        return answer

    with World(3) as world:
        world.spawn("s1", serve)
        assert world.run(world.spawn("c1", ask).wait()) == b"hello\n"


def frame(number):
    body = number.to_bytes(4, "big") * (1 + number % 5)
    return len(body).to_bytes(4, "big") + body


def numbers_in(stream):
    found = []
    while stream:
        size = int.from_bytes(stream[:4], "big")
        body, stream = stream[4 : 4 + size], stream[4 + size :]
        number = int.from_bytes(body[:4], "big")
        assert body == frame(number)[4:]  # whole, and not forged
        found.append(number)
    return found


async def _send_frames(pair):
    stream = b"".join(frame(n) for n in range(500))
    for at in range(0, len(stream), 13):  # cut anywhere: the network finds the frames
        pair.transport.write(stream[at : at + 13])
        await asyncio.sleep(0.001)
    await asyncio.sleep(5)
    return numbers_in(pair.server.received)


def test_frames_are_lost_repeated_and_reordered_but_whole():
    loss = Loss(drop=0.1, duplicate=0.1, delay=0.2, spared_frames=3)
    pair = Pair(_send_frames, framed=True, loss=loss).run()
    got = pair.result
    assert got[:3] == [0, 1, 2]
    assert 400 < len(set(got)) < 480
    assert len(got) > len(set(got))
    assert sorted(got) != got
    assert not pair.server.over.done()  # the connection stays up


def test_without_losses_a_framed_network_changes_nothing():
    assert Pair(_send_frames, framed=True).run().result == list(range(500))


def test_lost_frames_do_not_fill_the_window():
    async def body(pair):
        for n in range(2000):
            pair.transport.write(frame(n))
            await asyncio.sleep(0.0001)
        await asyncio.sleep(1)
        return pair.transport.get_write_buffer_size()

    assert Pair(body, framed=True, loss=Loss(drop=0.5), window_bytes=1000).run().result == 0


def test_losing_frames_needs_frames():
    with pytest.raises(ValueError, match="framed"):
        World(1, network=NetworkOptions(loss=Loss(drop=0.1)))


def test_a_failing_protocol_fails_the_run_and_the_connection():
    async def body(pair):
        pair.server.data_received = lambda data: 1 // 0
        pair.transport.write(b"x")
        await asyncio.sleep(10)

    with pytest.raises(Exception, match="protocol failed"):
        Pair(body).run()


def test_latencies_are_what_they_say():
    with World(1) as world:
        random = world.random_for("test")
        assert all(1 <= uniform(1, 2)(random) <= 2 for _ in range(100))
        draws = [skewed(1, 2)(random) for _ in range(2000)]
        assert min(draws) >= 1
        assert 2.7 < sum(draws) / len(draws) < 3.3
