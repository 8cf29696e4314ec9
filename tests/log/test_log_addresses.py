"""Addresses are used again: another deployment's sequencer may have one now, of a log so named."""

import wormspace
from inprocess import serving


async def test_a_sequencer_of_another_deployment_gives_no_positions_for_this_log():
    async with (
        serving() as our_server,
        serving() as their_server,
        wormspace.connect(f"worm://127.0.0.1:{our_server.port}") as ours,
        wormspace.connect(f"worm://127.0.0.1:{our_server.port}") as ours_too,
        wormspace.connect(f"worm://127.0.0.1:{their_server.port}") as theirs,
    ):
        first = await ours.log("orders")
        assert await first.append(b"0") == 0
        appender = await ours_too.log("orders")
        assert await appender.append(b"1") == 1
        here = first._sequencing._at
        port = (await first._sequencing._cell.get())[1].port
        await here._service.stop()  # as a crash: it says no goodbye
        other = await theirs.log("orders", port=port)
        assert await other.append(b"foreign") == 0
        for _ in range(40):
            await other.append(b"foreign")
        assert await appender.append(b"2") == 2
        assert await appender.append(b"3") == 3
        entries = await appender.read_range(0)
        assert [entry.body for entry in entries] == [b"0", b"1", b"2", b"3"]
