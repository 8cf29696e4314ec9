"""Layer 4: what an append concludes, by the code: `log.appending`.

A batch is acknowledged at the positions that it holds, in the slot that it was written to, when it
stands there; one that is lost can never stand there, and its entries, and no others, are appended
again.
"""

from __future__ import annotations

from typing import Any

import z3

from verification import theory as th
from verification.loops import Claims, Engine
from verification.procedures import (
    ATTEMPTS,
    Again,
    Done,
    Register,
    Thing,
    choose,
    clock,
    fails,
    paced,
    procedure,
    replying,
    retrying,
)
from verification.symex import SymBool, SymInt, SymWord, current, int_term
from verification.system import I
from wormspace.errors import AlreadyWritten, CaptureLost, PartialWrite, Trimmed, Unavailable
from wormspace.log.messages import Ask, Given

SIZE = 8
LOST = (CaptureLost("taken"), Trimmed("trimmed"))


def _word(name: str) -> SymWord:
    return SymWord(th.fresh(name, I))


# ------------------------------------------------------------------ writing batches


def writing(e: Engine) -> None:
    """A batch is acknowledged when it stands, and appended again when it never will."""
    appending = e.core.modules["log.appending"]
    appending.__dict__.update(asyncio=clock(), Backoff=retrying)

    def writes() -> Any:
        reserved = Thing(segment=3, start=2, stop=3 + choose("two"), fence=b"fence")
        registers = [Register(3 * SIZE + at, LOST) for at in range(reserved.start, reserved.stop)]
        met = Thing(registers=registers, placed=[], right=[], settled=[])
        drafts = []
        for k in range(len(registers)):
            draft = Thing(raw=_word("raw"), placed=lambda k=k: met.placed.append(k))
            drafts.append(draft)
        met.drafts = drafts
        segmented_log = Thing(size=SIZE)

        async def write_all(values: list[Any], timeout: float) -> None:
            results: list[Any] = []
            for register, value in zip(registers, values, strict=True):
                try:
                    await register.write(register.at, value)
                except (CaptureLost, AlreadyWritten, Trimmed, Unavailable) as error:
                    results.append(error)
                else:
                    results.append(None)
            if any(results):
                raise PartialWrite("some failed", results)

        def hold(where: Any, what: Any) -> Thing:
            met.right.append(where is segmented_log and what is reserved)
            return Thing(write_all=write_all)

        def settle(slot: int, raw: Any) -> bool:
            register = registers[slot - registers[0].at]
            fails(Unavailable("no majority"), Trimmed("trimmed"))
            register.later()
            current().facts.append(register.written)
            met.settled.append(slot)
            return bool(SymBool(register.stands(raw)))

        segmented_log.settle = replying(settle)
        appending.__dict__["ReservedWriter"] = hold
        return appending.Appender._write_reserved(
            Thing(_segmented_log=segmented_log), reserved, drafts, 1.0
        ), met

    def wrote(done: Done) -> Claims:
        m = done.met
        stands = [r.stands(p.raw) for r, p in zip(m.registers, m.drafts, strict=True)]
        claims = {
            "each is written into its own slot": z3.And(
                *[a == p.raw.z for r, p in zip(m.registers, m.drafts, strict=True)
                  for a in r.attempts]
            ),
            "into the slots that were given, under their token": z3.BoolVal(m.right == [True]),
            "acknowledged: it stands in its slot": z3.And(*[stands[k] for k in m.placed]),
            "once": z3.BoolVal(len(set(m.placed)) == len(m.placed)),
        }  # fmt: skip
        if done.error is not None:
            documented = isinstance(done.error, Unavailable | Trimmed)
            return claims | {"fails as documented": z3.BoolVal(documented)}
        lost = [m.drafts.index(draft) for draft in done.result]
        never = [z3.And(m.registers[k].written, z3.Not(stands[k])) for k in lost]
        return claims | {
            "lost: its slot holds something else, for ever": z3.And(*never),
            "each is acknowledged or lost": z3.BoolVal(
                sorted([*lost, *m.placed]) == list(range(len(m.drafts)))
            ),
        }

    title = (
        "log.Appender._write_reserved: acknowledged iff it stands, else lost (up to two batches)"
    )
    procedure(e, title, writes, wrote)
    _sharing_out(e, appending)
    _insisting(e, appending)


def _sharing_out(e: Engine, appending: Any) -> None:
    """The k-th batch goes into the k-th slot given, and holds the positions given for it."""

    def asks() -> Any:
        first, before = SymInt(th.fresh("first", I)), SymInt(th.fresh("before", I))
        ranges = [Thing(start=6, stop=7 + choose("one more"))]
        if choose("in two ranges"):
            ranges.append(Thing(start=0, stop=1 + choose("one more")))
        drafts = [
            Thing(count=SymInt(th.fresh("count", I)), size=SymInt(th.fresh("size", I)),
                  last_of_streams=dict, bodies=lambda k=k: k, groups=lambda k=k: ("groups", k))
            for k in range(2)
        ]  # fmt: skip
        named = choose("named")
        if named:
            drafts[1].last_of_streams = lambda: {"s": 0}
        links: tuple[Any, ...] = ({"s": (4,)},) if named else ()
        if choose("more links"):
            links += ({},)
        elif choose("fewer links"):
            links = links[1:]
        met = Thing(
            first=first.z, before=before.z, drafts=drafts, ranges=ranges, batches=[], asked=[]
        )
        appending.__dict__["BatchRecord"] = lambda *fields: fields
        appending.__dict__["encode"] = lambda batch: (
            met.batches.append(batch) or ("raw", len(met.batches))
        )
        given = Given(tuple(ranges), first, before, links)  # type: ignore[arg-type]
        met.named, met.links = named, links

        def ask(question: Ask, deadline: float) -> Any:
            met.asked.append(question)
            fails(Unavailable("no sequencer"))
            return given if choose("positions") else Thing()

        def give_now(question: Ask) -> Any:
            met.asked.append(question)
            return given if choose("at once") else None

        me = Thing(_sequencing=Thing(give_now=give_now, ask=replying(ask)), _clock=lambda: 1.0)
        me.__dict__.update(_serial=SymInt(th.fresh("serial", I)), _writer=b"writer")
        met.serial = me._serial.z

        async def shares() -> Any:
            got = await appending.Appender._ask(me, drafts, None, 1.0)
            me._write_reserved = replying(lambda reserved, some, left: [(reserved, some)])
            return await appending.Appender._write_all(me, drafts, got, 1.0)

        return shares(), met

    def shared(done: Done) -> Claims:
        m = done.met
        slots = sum(reserved.stop - reserved.start for reserved in m.ranges)
        asked = m.asked[0]
        claims = {
            "asks for as many positions as there are entries": z3.And(
                *[int_term(n) == p.count.z for n, p in zip(asked.counts, m.drafts, strict=True)]
            ),
            "and for what comes before in their streams": z3.BoolVal(
                all(a.named == ((1, {"s": 0}),) * m.named for a in m.asked)
            ),
        }
        if done.error is not None:
            right = isinstance(done.error, Unavailable)
            return claims | {"fails as documented": z3.BoolVal(right)}
        first, before = m.first, m.before
        for k, (draft, batch) in enumerate(zip(m.drafts, m.batches, strict=True)):
            claims[f"batch {k} begins where the one before ends"] = z3.And(
                int_term(draft.first) == first, int_term(batch[0]) == first,
                int_term(batch[1]) == before, z3.BoolVal(batch[5] == k),
                z3.BoolVal(batch[6:] == (("groups", k), m.links[0] if k and m.named else {})),
            )  # fmt: skip
            claims[f"batch {k} is like no other"] = int_term(batch[3]) == m.serial + 1 + k
            claims[f"batch {k} is what is written"] = z3.BoolVal(draft.raw == ("raw", k + 1))
            first, before = first + draft.count.z, before + draft.size.z
        shares = [(reserved, draft) for reserved, some in done.result for draft in some]
        each = [reserved for reserved in m.ranges for _ in range(reserved.start, reserved.stop)]
        return claims | {
            "a slot for each": z3.BoolVal(slots == len(m.drafts)),
            "links for each that was named": z3.BoolVal(len(m.links) == m.named),
            "in their order": z3.BoolVal(
                all(a is r and b is p for (a, b), r, p in zip(shares, each, m.drafts, strict=True))
            ),
        }

    real = appending.BatchRecord, appending.encode
    title = (
        "log.Appender._ask: each batch holds the positions given for its slot (up to two batches)"
    )
    procedure(e, title, asks, shared)
    appending.__dict__.update(BatchRecord=real[0], encode=real[1])


def _insisting(e: Engine, appending: Any) -> None:
    def insists() -> Any:
        met = Thing(tried=[], lost=[], late=False, right=[])
        parts = [("request", 0, 1), ("request", 1, 2)]
        appending.__dict__["_drafts"] = lambda some, largest: [Thing(parts=[part]) for part in some]

        def ask(drafts: Any, doubt: Any, deadline: float) -> Any:
            met.right.append((bool(drafts), doubt, deadline) == (True, met.doubt, 1.0))
            fails(Unavailable("no sequencer"))
            met.doubt = b"fence"
            return Thing(ranges=(Thing(fence=b"fence"),))

        def time() -> float:
            met.late = choose("late")
            return 1.0 + met.late if choose("exactly late") or met.late else 0.5

        def write_all(drafts: Any, given: Any, left: float) -> Any:
            if len(met.tried) == ATTEMPTS:
                raise Again
            met.right.append(left == 0.5 and given.ranges[0].fence == b"fence")
            met.tried.append([part for draft in drafts for part in draft.parts])
            fails(Unavailable("no majority"))
            lost = [draft for draft in drafts if choose("lost")]
            met.lost.append([part for draft in lost for part in draft.parts])
            return lost

        me = Thing(
            _ask=replying(ask), _write_all=replying(write_all), lost=0, _largest=1000,
            _segmented_log=Thing(space=Thing(client=paced())),
            _loop=Thing(time=time),
        )  # fmt: skip
        met.me, met.parts, met.doubt = me, parts, None
        return appending.Appender._insist(me, parts, 1.0), met

    def insisted(done: Done) -> Claims:
        m = done.met
        wanted = [m.parts, *m.lost]
        claims = {
            "with what time is left, and told whose token was refused": z3.BoolVal(all(m.right)),
            "what was lost is counted": z3.BoolVal(m.me.lost == sum(map(len, m.lost))),
            "first all, then again what was lost, and nothing else": z3.BoolVal(
                all(tried == some for tried, some in zip(m.tried, wanted, strict=False))
            ),
        }
        if done.error is not None:
            documented = isinstance(done.error, Again | Unavailable)
            return claims | {"fails as documented": z3.BoolVal(documented)}
        return claims | {"until nothing is lost": z3.BoolVal(m.lost[-1] == [])}

    real = appending._drafts
    title = (
        "log.Appender._insist: appends again what was lost, and nothing else (up to two batches)"
    )
    procedure(e, title, insists, insisted)
    appending.__dict__["_drafts"] = real


# ------------------------------------------------------------------ telling the appender


SHARED_OUT = (
    (((0, 0, 3), (1, 0, 1)),),
    (((1, 0, 1), (0, 0, 3)),),
    (((0, 0, 1),), ((0, 1, 3), (1, 0, 1))),
    (((0, 0, 2),), ((0, 2, 3),), ((1, 0, 1),)),
)
"""Two appends, of three entries and of one, in some batches: (append, from, to), by batch."""


def telling(e: Engine) -> None:
    """Each entry's position is that of its place in its batch."""
    appending = e.core.modules["log.appending"]

    def numbers(start: Any, stop: Any) -> list[Any]:
        return [start + k for k in range(z3.simplify(stop.z - start.z).as_long())]

    def tells() -> Any:
        told: list[Any] = []
        requests = []
        for at, entries in enumerate((3, 1)):
            future = Thing(done=lambda: False)
            future.set_result = lambda positions, at=at: told.append((at, [*positions]))
            requests.append(appending._AppendRequest([b"body"] * entries, {}, (), 0, future))
        where: dict[tuple[int, int], z3.ExprRef] = {}
        drafts = []
        for some in next((x for x in SHARED_OUT if choose("so")), SHARED_OUT[0]):
            draft = appending._BatchDraft()
            draft.first = SymInt(th.fresh("first", I))
            position = draft.first.z
            for at, start, stop in some:
                draft.add(requests[at], start, stop)
                for k in range(start, stop):
                    where[at, k] = position
                    position = position + 1
            drafts.append(draft)
        if choose("the last is first"):
            drafts.reverse()
        met = Thing(told=told, where=where, requests=requests, early=[])

        async def tell() -> None:
            for draft in drafts:
                draft.placed()
                met.early += [(at, requests[at].missing) for at, _ in told]

        appending.__dict__["range"] = numbers
        return tell(), met

    def told(done: Done) -> Claims:
        m = done.met
        return {
            "each append is answered once": z3.BoolVal(sorted(at for at, _ in m.told) == [0, 1]),
            "when all its entries stand": z3.BoolVal(all(missing == 0 for _, missing in m.early)),
            "with the position of each": z3.And(
                *[
                    int_term(position) == m.where[at, k]
                    for at, positions in m.told
                    for k, position in enumerate(positions)
                ]
            ),
            "of all of them": z3.BoolVal(
                all(len(positions) == len(m.requests[at].bodies) for at, positions in m.told)
            ),
        }

    title = "log.appending: an append is answered once, with its positions (up to three batches)"
    procedure(e, title, tells, told)
    appending.__dict__.pop("range")


def prove(e: Engine) -> None:
    """Acknowledging."""
    writing(e)
    telling(e)
