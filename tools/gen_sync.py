"""Write src/wormspace/sync.py, the synchronous twin, from the asynchronous classes.

    python tools/gen_sync.py            write it
    python tools/gen_sync.py --check    exit 1 if it is not up to date

Every public method of the classes in TWINS becomes a `def` with the same signature and docstring
that runs it on the connection's background loop, and waits for what it returns to be awaited;
public attributes become properties.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "wormspace"
TARGET = PACKAGE / "sync.py"


@dataclass(frozen=True)
class Twin:
    """What of an asynchronous class has a twin.

    Attributes:
        sources: where it is, as FILE:CLASS; methods of the first are shown first.
        twin: the asynchronous class's name in the twin's module.
        bases: of the twin.
        parent: an attribute whose value is a twin, too, with its class and docstring.
        attributes: other public attributes, with type and docstring.
        hidden: public by name, because the layers use them among themselves; no calls for users.
        extra: methods that are written by hand.
    """

    sources: tuple[str, ...]
    twin: str
    bases: str = ""
    parent: tuple[str, str, str] | None = None
    attributes: tuple[tuple[str, str, str], ...] = ()
    hidden: frozenset[str] = frozenset()
    extra: str = ""


CLOSES_ALL = '''
    def close(self) -> None:
        """Close what was opened here, give up what is under way (`Closed`), and disconnect."""
        self._background.close()
'''

RUN = '''
    def run(self, make: Callable[[], Awaitable[T]]) -> T:
        """Wait for something asynchronous on this connection's event loop.

            bank = worm.run(lambda: tx.KeyValueStore.open("bank", tx.LmdbStore(Path("bank"))))
            worm.run(bank.close)

        What lives on that loop, such as a resource manager, is opened and closed in this way.
        """
        return self._background.wait(make)
'''

COMMANDS = """
    def __getattr__(self, name: str) -> Callable[..., Any]:
        bound = getattr(self._twin, name)
        return lambda *args, **kwargs: self._background.wait(lambda: bound(*args, **kwargs))
"""

BLOCK = '''
    def __enter__(self) -> Self:
        self._block = Block(self._background, lambda: self._twin)
        self._block.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._block.__exit__(kind, error, traceback)

    def __getitem__(self, participant: ResourceManager) -> Any:
        """The participant's own session in this transaction; its calls are waited for."""
        return Foreign(self._background, self._twin[participant])
'''

TWINS = {
    "Worm": Twin(
        ("space/client.py:Client", "worm.py:Worm"),
        "_worm.Worm",
        hidden=frozenset({"deadline", "nonce", "close"}),
        extra=CLOSES_ALL + RUN,
    ),
    "Space": Twin(
        ("space/space.py:Space",),
        "_space.Space",
        parent=("client", "Worm", "The connection it belongs to."),
        attributes=(("name", "str", "1 to 255 bytes."),),
    ),
    "Segment": Twin(
        ("space/segment.py:Segment",),
        "_segment.Segment",
        parent=("space", "Space", "The space it belongs to."),
        attributes=(
            ("number", "int", "Its place in the space, from 0."),
            ("size", "int", "How many registers it has."),
            ("metadata", "bytes", "What its allocator said it is for."),
        ),
    ),
    "Log": Twin(
        ("log/log.py:Log",),
        "_log.Log",
        parent=("client", "Worm", "The connection it belongs to."),
        attributes=(
            ("name", "str", "The log's."),
            ("segment_size", "int", "Registers per segment; trimming frees whole segments."),
        ),
        hidden=frozenset({"open"}),
    ),
    "Cursor": Twin(
        ("log/cursors.py:Cursor",),
        "_cursor.Cursor",
        parent=("log", "Log", "The log it belongs to."),
        attributes=(("name", "str", "The consumer's."),),
    ),
    "View": Twin(("smr/views.py:View",), "_views.View[M]", "Generic[M]", extra=COMMANDS),
    "Replica": Twin(
        ("smr/replica.py:Replica",), "_replica.Replica[M]", "View[M]", hidden=frozenset({"open"})
    ),
    "Remote": Twin(
        ("smr/remote.py:Remote",),
        "_remote.Remote[M]",
        "View[M]",
        hidden=frozenset({"close"}),
        extra=CLOSES_ALL,
    ),
    "Transaction": Twin(
        ("tx/transaction.py:Transaction",),
        "_transaction.Transaction",
        attributes=(
            ("id", "TxId", "Its name."),
            ("decision", "Decision | None", "Its outcome, once it is known."),
        ),
        hidden=frozenset({"plan_now"}),
        extra=BLOCK,
    ),
    "Site": Twin(
        ("tx/site.py:Site",),
        "_site.Site",
        attributes=(
            ("space", "str", "The transaction space's name."),
            ("initiator", "str", "The name under which this process starts transactions."),
            ("address", "str", "Where others reach it, HOST:PORT; empty before `start`."),
        ),
        hidden=frozenset(
            {"call", "check_open", "gauges", "gid", "held", "hold", "leave_segment", "manager"}
            | {"new_id", "now", "open", "recognise", "sessions", "spawn", "take", "take_part"}
        ),
    ),
}
STREAM = re.compile(r"^Stream\[")
AWAITABLE = re.compile(r"^Awaitable\[(.*)\]$")

HEADER = '''\
"""WormSpace without asyncio: the same calls, for plain and threaded programs.

    import wormspace.sync

    with wormspace.sync.connect("file:./state") as worm:
        segment = worm.space("orders").alloc(b"what it is for")
        captured = segment.capture()
        segment.write(0, b"decided, for ever", captured.token)
        assert segment.read(0) == b"decided, for ever"

A connection runs one event loop in a background thread; calls may come from any thread.

Made by tools/gen_sync.py from the asynchronous classes; do not edit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import wormspace.connecting as _connecting
import wormspace.log.cursors as _cursor
import wormspace.log.log as _log
import wormspace.smr.remote as _remote
import wormspace.smr.replica as _replica
import wormspace.smr.views as _views
import wormspace.space.segment as _segment
import wormspace.space.space as _space
import wormspace.tx.site as _site
import wormspace.tx.transaction as _transaction
import wormspace.worm as _worm
from wormspace._sync_runtime import Background, Block, Foreign, Stream
from wormspace.errors import UsageError
from wormspace.log import Entry, Info, SequencerChoice
from wormspace.log.checks import NO_HEADERS
from wormspace.registers.interface import Captured, RegisterState, ServerState
from wormspace.registers.token import Token
from wormspace.smr import (
    Consistency,
    Durability,
    Grant,
    Job,
    Leadership,
    StateMachine,
    Status,
    Tuning,
    Versions,
)
from wormspace.smr.holding import holding as _hold
from wormspace.smr.holding import taking as _take
from wormspace.space.address import Address
from wormspace.space.client import DEFAULT_TIMEOUT_S
from wormspace.space.events import Event
from wormspace.space.space import DEFAULT_SIZE
from wormspace.tx import Decision, Gid, Resolution, ResourceManager, TxId
from wormspace.tx.site import CALL_TIMEOUT_S

M = TypeVar("M", bound=StateMachine)
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

__all__ = [
    "Block",
    "Cursor",
    "Log",
    "Remote",
    "Replica",
    "Segment",
    "Site",
    "Space",
    "Stream",
    "Transaction",
    "View",
    "Worm",
    "attach",
    "connect",
    "holding",
    "taking",
]


def connect(
    url: str, *, timeout: float = DEFAULT_TIMEOUT_S, rng: random.Random | None = None
) -> Worm:
'''

CONNECT_BODY = """\

    async def opening() -> _worm.Worm:
        return await _connecting.connect(url, timeout=timeout, rng=rng)

    return Worm(Background.connect(opening))
"""

ATTACH_BODY = """\

    async def attaching() -> _remote.Remote[M]:
        return await _remote.attach(
            machine_type, name, addresses, consistency=consistency, timeout=timeout, rng=rng
        )

    background = Background.connect(attaching)
    return Remote(background, background.client)
"""

LEASES = '''

def holding(
    lock: View[Any], owner: str, lease_s: float = 10.0, *, rng: random.Random | None = None
) -> Block[Grant]:
    """Wait for a lock, hold it, renew its lease, and release it in the end.

    A thread cannot be cancelled: a block whose lease could not be renewed goes on to its end, and
    ends with `LeaseLost`; so pass `grant.fence` along with every effect.  See `smr.holding`.

    Raises:
        UsageError: an argument is not what is said here.
    """
    background, twin = _twin_of(lock)
    return Block(background, lambda: _hold(twin, owner, lease_s, rng=rng))


def taking(
    queue: View[Any], lease_s: float = 30.0, *, rng: random.Random | None = None
) -> Block[Job]:
    """Wait for a job of a queue, have it for a lease that is renewed, and finish it.

    As `holding`, a block that lost its lease ends with `LeaseLost`.  See `smr.taking`.

    Raises:
        UsageError: an argument is not what is said here.
    """
    background, twin = _twin_of(queue)
    return Block(background, lambda: _take(twin, lease_s, rng=rng))


def _twin_of(replicated: View[M]) -> tuple[Background[Any], _views.View[M]]:
    if not isinstance(replicated, View):
        raise UsageError("a lock or queue is what worm.replicate or attach gave, in wormspace.sync")
    return replicated._background, replicated._twin
'''

WITH = """
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
"""

WORM_LIFE = """
    def __init__(self, background: Background[_worm.Worm]) -> None:
        self._background = background
        self._twin = background.client

    def __repr__(self) -> str:
        return repr(self._twin)
"""

PART_LIFE = """
    def __init__(self, background: Background[Any], {parent}twin: {twin}) -> None:
        self._background = background
        {keeps}self._twin: {twin} = twin

    def __repr__(self) -> str:
        return repr(self._twin)
"""

PARENT = '''
    @property
    def {name}(self) -> {kind}:
        """{about}"""
        return self._{name}
'''


def generate() -> str:
    """The text of the twin."""
    attach = _function("smr/remote.py", "attach")
    doc = _docstring(_plain(ast.get_docstring(attach) or ""), "    ")
    out = [HEADER, _connect_doc(), CONNECT_BODY]
    for name, twin in TWINS.items():
        out.append(_class(name, twin))
    head = f"\n\ndef attach({_arguments(attach.args)}) -> Remote[M]:\n"
    out.append(f"{head}{doc}{ATTACH_BODY}{LEASES}")
    text = "".join(out)
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(ruff, input=text, text=True, capture_output=True, check=True).stdout


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _find(source: str) -> ast.ClassDef:
    file, _, name = source.partition(":")
    tree = ast.parse((PACKAGE / file).read_text())
    return next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)


def _function(file: str, name: str) -> Function:
    tree = ast.parse((PACKAGE / file).read_text())
    return next(n for n in tree.body if isinstance(n, Function) and n.name == name)


def _calls(twin: Twin) -> dict[str, Function]:
    """The public methods that are for users; properties are attributes."""
    return {
        item.name: item
        for source in twin.sources
        for item in _find(source).body
        if isinstance(item, Function)
        and not item.name.startswith("_")
        and not any(isinstance(d, ast.Name) and d.id == "property" for d in item.decorator_list)
        and item.name not in twin.hidden
    }


def _connect_doc() -> str:
    node = _function("connecting.py", "connect")
    doc = (ast.get_docstring(node) or "").replace("async with wormspace.", "with wormspace.sync.")
    doc = doc.replace("await ", "").replace("Raises (when awaited):", "Raises:")
    return _docstring(doc, "    ")


def _class(name: str, twin: Twin) -> str:
    doc = (ast.get_docstring(_find(twin.sources[-1])) or "").split("\n\n")
    kept = [part for part in doc if not part.startswith(("Attributes:", "Args:", "Raises:"))]
    while kept[-1].startswith(" "):
        kept.pop()  # an example of how it is made, which its twin is not
    text = _plain("\n\n".join(kept)).replace("`wormspace.connect`", "`wormspace.sync.connect`")
    bases = f"({twin.bases})" if twin.bases else ""
    out = [f"\n\nclass {name}{bases}:\n", _docstring(text, "    ")]
    calls = _calls(twin)
    attributes = [*twin.attributes, *_properties(twin)]
    if name == "Worm":
        out.append(WORM_LIFE)
    elif twin.parent is None:
        out.append(PART_LIFE.format(twin=twin.twin, parent="", keeps=""))
    else:
        parent, kind, about = twin.parent
        keeps = f"self._{parent} = {parent}\n        "
        out.append(PART_LIFE.format(twin=twin.twin, parent=f"{parent}: {kind}, ", keeps=keeps))
        out.append(PARENT.format(name=parent, kind=kind, about=about))
    if "close" in calls or "def close" in twin.extra:
        out.append(WITH)
    for attribute, kind, about in attributes:
        out.append(
            f"\n    @property\n    def {attribute}(self) -> {kind}:\n"
            f'        """{about}"""\n        return self._twin.{attribute}\n'
        )
    return "".join([*out, twin.extra, *(_method(name, item) for item in calls.values())])


def _properties(twin: Twin) -> list[tuple[str, str, str]]:
    return [
        (item.name, ast.unparse(item.returns or ast.Constant(None)), ast.get_docstring(item) or "")
        for source in twin.sources
        for item in _find(source).body
        if isinstance(item, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id == "property" for d in item.decorator_list)
        and item.name not in twin.hidden
    ]


def _method(owner: str, node: Function) -> str:
    """One call: on the loop, and to its end."""
    returns = ast.unparse(node.returns) if node.returns else "None"
    awaitable = AWAITABLE.match(returns)
    call = f"self._twin.{node.name}({_passed(node.args)})"
    if isinstance(node, ast.AsyncFunctionDef):
        run = f"self._background.call(lambda: {call})"
    elif awaitable:
        returns = awaitable[1]
        run = f"self._background.wait(lambda: {call})"
    else:
        run = f"self._background.do(lambda: {call})"
    doc = _docstring(_plain(ast.get_docstring(node) or ""), "        ")
    head = f"\n    def {node.name}({_arguments(node.args)}) -> {returns}:\n{doc}"
    made = TWINS.get(returns.partition("[")[0])
    if STREAM.match(returns):
        return f"{head}        return Stream(self._background, lambda: {call})\n"
    if made is not None:
        parent = "self, " if made.parent else ""
        made_of = f"{returns.partition('[')[0]}(self._background, {parent}twin)"
        return f"{head}        twin = {run}\n        return {made_of}\n"
    return f"{head}        {'' if returns == 'None' else 'return '}{run}\n"


def _plain(doc: str) -> str:
    """A docstring without the words of asyncio."""
    return (
        re.sub(r"\b(await |async (?=for|with))", "", doc)
        .replace(", to be awaited", "")
        .replace("be awaited", "be called")
    )


def _arguments(args: ast.arguments) -> str:
    return ast.unparse(args)


def _passed(args: ast.arguments) -> str:
    """The arguments of a call, passed on."""
    plain = [a.arg for a in [*args.posonlyargs, *args.args] if a.arg != "self"]
    plain += [f"*{args.vararg.arg}"] if args.vararg else []
    plain += [f"{a.arg}={a.arg}" for a in args.kwonlyargs]
    plain += [f"**{args.kwarg.arg}"] if args.kwarg else []
    return ", ".join(plain)


def _docstring(text: str, indent: str) -> str:
    lines = text.split("\n")
    if len(lines) == 1:
        return f'{indent}"""{text}"""\n'
    body = "\n".join(f"{indent}{line}" if line else "" for line in lines[1:])
    return f'{indent}"""{lines[0]}\n{body}\n{indent}"""\n'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    if parser.parse_args().check:
        if TARGET.read_text() == generate():
            return 0
        print(f"{TARGET.relative_to(ROOT)} is not up to date: run python tools/gen_sync.py")
        return 1
    TARGET.write_text(generate())
    return 0


if __name__ == "__main__":
    sys.exit(main())
