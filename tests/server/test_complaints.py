"""What clients do wrong is told, and does not fill the log."""

import asyncio

from inprocess import Raw, serving
from wires import simulated
from wormspace.server import complaints
from wormspace.server.complaints import Complaints
from wormspace.server.limits import Limits
from wormspace.wire.messages import Status


def told(caplog):
    """Event, code and number of each line."""
    return [(r.message, r.code, getattr(r, "times", 1)) for r in caplog.records]


async def test_refused_connections_take_a_line_and_a_number(caplog):
    async with serving(limits=Limits(max_connections=1)) as server:
        good = await Raw.connect(server.port)
        for _ in range(30):
            late = await Raw.connect(server.port, greet=False)
            assert (await late.greeting()).code == "busy"
            await late.close()
        await good.call(Status())
        assert told(caplog) == [("refused", "busy", 1)]
        assert server.metrics()["connections_refused"] == 30
    assert told(caplog) == [("refused", "busy", 1), ("refused", "busy", 29)]
    assert "as many connections" in caplog.records[1].reason


def test_as_long_as_it_goes_on_there_is_a_line_in_an_interval(caplog):
    async def work():
        wrong: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: wrong.append(what))
        them = Complaints()
        for n in range(100):
            them.tell("refused", "busy", {"reason": f"number {n}"})
            if n == 50:
                them.tell("malformed", "bad", {"reason": "other"})
            await asyncio.sleep(complaints.INTERVAL_S / 20)
        await asyncio.sleep(3 * complaints.INTERVAL_S)
        assert not them._timers
        assert not them._untold
        them.tell("refused", "busy", {"reason": "again"})
        them.close()
        count = len(caplog.records)
        await asyncio.sleep(3 * complaints.INTERVAL_S)
        assert (len(caplog.records), wrong) == (count, [])
        them.tell("late", "busy", {})  # at once, as the first of an interval
        them.tell("refused", "busy", {"reason": "again"})
        assert len(caplog.records) == count + 2
        them.close()

    simulated(work)
    lines = [line for line in told(caplog) if line[0] == "refused"]
    assert lines[0] == lines[-1] == ("refused", "busy", 1)
    assert sum(times for *_, times in lines) == 102
    assert len(lines) in (7, 8, 9)
    assert ("malformed", "bad", 1) in told(caplog)
