"""What the durable engine decides, with its journal, tables and threads made up."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import lmdb
import pytest

from wormspace.errors import StoreDamaged, StoreFull
from wormspace.knobs import turned
from wormspace.server.storage import AcceptorStore
from wormspace.store.changes import encode
from wormspace.store.trust import Trust

ROW = {"rows": {b"key": b"value"}}


class Engine(AcceptorStore):
    """One whose parts a test makes up; it notes what it does.

    Attributes:
        done: the steps, in order.
    """

    def __init__(self, **parts: object) -> None:
        self.done: list[object] = []
        self._path, self._trust, self._crowded = Path("/data"), Trust(Path("/data")), None
        self._saving, self._scrubbing = None, object()
        vars(self).update(parts)

    def note(self, *what: object, returns: object = None):
        """A step that is noted with what it is given."""

        def step(*given: object) -> object:
            self.done.append((*what, *given))
            return returns

        return step


# ---------------------------------------------------------------- the same moment


STATES = [*itertools.product((0, 4, 5, 6), (b"a", b"b", b"c"))]


def test_tables_are_those_of_the_checkpoint() -> None:
    for saved, found in itertools.product(STATES, [None, *STATES]):
        engine = Engine(_tables=SimpleNamespace(committed=found and state(found)))
        wrong = pytest.raises(StoreDamaged, match="not of the same moment")
        with nullcontext() if found == saved else wrong:
            engine._check_state(state(saved))


def state(of: tuple[int, bytes]) -> SimpleNamespace:
    return SimpleNamespace(number=of[0], salt=of[1])


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("place", [b"a", b"b", b"c"])
@pytest.mark.parametrize("prepared", [False, True])
def test_the_last_checkpoint_prepares_the_free_file_only_if_it_is_free(place, prepared) -> None:
    """It is, if the one that is written is the one that the checkpoint names."""
    journal = SimpleNamespace(last=3, place=(place, 1), is_prepared=prepared)
    engine = Engine(_journal=journal, _roots=SimpleNamespace(saved=state((2, b"b"))))
    journal.release, journal.prepare = engine.note("release"), engine.note("prepare")
    engine._checkpoint_now = engine.note("checkpoint")
    engine._finish()
    frees = [("release",), ("prepare",)] if place == b"b" and not prepared else []
    assert engine.done == [*frees, ("checkpoint",)]


@pytest.mark.parametrize(
    ("saved", "failed", "last"),
    [(None, "", 3), (state((3, b"b")), "", 3), (state((2, b"b")), "broken", 3)],
)
def test_there_is_no_last_checkpoint_of_nothing_or_of_what_failed(saved, failed, last) -> None:
    engine = Engine(_journal=SimpleNamespace(last=last), _roots=SimpleNamespace(saved=saved))
    engine._trust.failed = failed
    engine._checkpoint_now = engine.note("checkpoint")
    engine._finish()
    assert engine.done == []


@pytest.mark.parametrize("error", [OSError("no disk"), lmdb.Error("no tables"), StoreFull("full")])
def test_a_last_checkpoint_that_fails_is_told_and_the_store_is_closed(error, caplog) -> None:
    def fails() -> None:
        raise error

    journal = SimpleNamespace(last=3, place=(b"a", 1), is_prepared=True)
    engine = Engine(_journal=journal, _roots=SimpleNamespace(saved=state((2, b"b"))))
    engine._checkpoint_now = fails
    engine._finish()
    assert "closed without a checkpoint" in caplog.text


# ---------------------------------------------------------------- a commit


def later(step):
    """A step that is waited for."""

    async def run(*given: object) -> None:
        step(*given)

    return run


@pytest.mark.parametrize("weight", [1, 2, 7])
@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_the_journal_has_grown_by_what_counts_and_then_there_is_a_checkpoint(
    weight, more
) -> None:
    size = len(encode(ROW))
    for is_large in (False, True):
        grown = 100 + size * (weight if is_large else 1)
        engine = Engine(_grown=100, _enough=grown + more)
        engine._check_room = engine.note("room")
        engine._append = later(engine.note("append"))
        engine._apply = engine.note("apply")
        engine._checkpoint = engine.note("checkpoint")
        limit = size if is_large else size + 1
        with turned(store_large_weight=weight, store_large_bytes=limit, store_spare_bytes=9):
            await engine._commit(ROW)
        steps = [("room", ROW, size), ("append", encode(ROW), 9), ("apply", ROW, size)]
        assert engine.done == steps + [("checkpoint",)] * (more <= 0)
        assert engine._grown == grown


@pytest.mark.parametrize("saving", [None, object()])
@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("fast", [False, True])
async def test_the_loop_writes_what_is_settled_and_fast_and_a_thread_all_else(
    saving, settled, fast
) -> None:
    engine = Engine(_saving=saving)
    engine._journal = SimpleNamespace(
        append=engine.note("append"), is_settled=engine.note("settled", returns=settled)
    )
    engine._pace = SimpleNamespace(
        timed=lambda work: work, allows=engine.note("allows", returns=fast)
    )

    async def run(work) -> None:
        engine.done.append("thread")
        work()

    engine._committer = SimpleNamespace(run=run)
    await engine._append(b"record", 5)
    inline = saving is None and settled and fast
    asked = [("settled", 6, 5)] * (saving is None)
    asked += [("allows", 6)] * (saving is None and settled)
    assert engine.done == [*asked, *["thread"] * (not inline), ("append", b"record", 5)]


# ---------------------------------------------------------------- room


def limited(file: int, used: int, growth: int, **parts: object) -> Engine:
    """A store of at most 1000 pages of one byte, whose journal has 8."""
    engine = Engine(_max_bytes=1000, _journal=SimpleNamespace(size=8), **parts)
    engine._tables = SimpleNamespace(
        committed_pages=file,
        page_bytes=1,
        pages=engine.note("used", returns=used),
        growth=engine.note("growth", returns=growth),
    )
    return engine


@pytest.mark.parametrize(
    ("file", "used", "growth", "refused"),
    [
        (960, 999, 1, True),
        (960, 1500, 1, True),
        (1000, 1500, 1, True),
        (960, 999, 0, False),
        (960, 999, -1, False),
        (960, 998, 1, False),
        (960, 500, 1, False),
    ],
)
def test_a_store_at_its_limit_takes_what_makes_it_no_larger(file, used, growth, refused) -> None:
    engine = limited(file, used, growth)
    full = pytest.raises(StoreFull, match="its limit of 1000 bytes")
    with full if refused else nullcontext():
        engine._check_room(ROW, 2)
    looks = [("growth", engine.growing, ROW)] if used + 2 > 1000 else []
    assert engine.done == [("used",), *looks]


def test_far_below_the_limit_nothing_is_looked_up() -> None:
    engine = limited(959, 0, 0)
    engine._check_room(ROW, 2)
    assert engine.done == []


@pytest.mark.parametrize(("there", "helps"), [(False, False), (True, False), (True, True)])
def test_on_a_full_disk_a_checkpoint_is_tried_when_there_is_room(there, helps) -> None:
    engine = limited(0, 0, 0, _crowded=StoreFull("no room on the disk"))
    engine._room = SimpleNamespace(is_there=lambda: there)

    def checkpoint() -> None:
        engine.done.append("checkpoint")
        if helps:
            engine._crowded = None

    engine._checkpoint = checkpoint
    if helps:
        engine._check_room(ROW, 2)
    else:
        with pytest.raises(StoreFull, match=r"^no room on the disk$"):
            engine._check_room(ROW, 2)
    assert engine.done == ["checkpoint"] * there


# ---------------------------------------------------------------- the scrub


@pytest.mark.parametrize("cause", [None, StoreDamaged("rows are missing"), OSError("no disk")])
@pytest.mark.parametrize("failed", [False, True])
def test_what_the_scrub_finds_is_marked_and_what_it_could_not_read_is_not(cause, failed) -> None:
    engine = Engine()
    if failed:
        engine._trust.failed = "before"

    def step() -> None:
        engine.done.append("step")
        if cause is not None:
            raise cause

    engine._scrub = SimpleNamespace(step=step)
    engine._tables = SimpleNamespace(refuse=engine.note("refuse"))
    engine._roots = SimpleNamespace(lost="", condemn=engine.note("condemn"))
    engine.scrub()
    steps: list[object] = [] if failed else ["step"]
    is_lost = isinstance(cause, StoreDamaged) and not failed
    if cause is not None and not failed:
        steps.append(("refuse", engine._trust.failed))
    assert engine.done == steps + [("condemn",)] * is_lost
    assert engine._roots.lost == (engine._trust.failed if is_lost else "")


def test_the_mark_of_what_was_lost_waits_for_the_checkpoint_that_is_being_saved() -> None:
    """Both go to the same place, and the mark must be the last."""
    waiting: list = []

    def step() -> None:
        raise StoreDamaged("rows are missing")

    engine = Engine(_saving=SimpleNamespace(add_done_callback=waiting.append))
    engine._scrub = SimpleNamespace(step=step)
    engine._tables = SimpleNamespace(refuse=lambda why: None)
    engine._roots = SimpleNamespace(lost="", condemn=engine.note("condemn"))
    engine.scrub()
    assert engine.done == []
    [after] = waiting
    after(engine._saving)
    assert engine.done == [("condemn",)]


@pytest.mark.parametrize("error", [None, OSError("no disk")])
async def test_the_scrub_goes_on_until_the_store_fails(error) -> None:
    engine = Engine()

    def mark() -> None:
        engine.done.append("mark")
        if error is not None:
            raise error

    engine._journal = SimpleNamespace(mark=mark)
    engine.scrub = engine.note("scrub")
    engine._scrub_later = engine.note("later")
    engine._scrub_some()
    assert engine.done == ["mark", ("scrub",)] + [("later",)] * (error is None)
    assert engine._scrubbing is None


def test_a_key_has_so_many_bytes_and_a_table_is_one_of_these() -> None:
    engine = Engine()
    engine._check_keys({"rows": {b"k": b"", bytes(510): None}, "spaces": {}})
    for changes in ({"rows": {b"k": b"", b"": b""}}, {"rows": {bytes(511): b""}}, {"other": {}}):
        with pytest.raises(ValueError, match=r"a key has 1 to 510 bytes|no table 'other'"):
            engine._check_keys(changes)
