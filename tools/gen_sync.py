"""Write src/wormspace/sync.py, the synchronous twin, from the asynchronous classes.

    python tools/gen_sync.py            write it
    python tools/gen_sync.py --check    exit 1 if it is not up to date

Every public `async def` of Client, Space, Segment, Log and Cursor becomes a `def` with the same
signature and docstring that runs it on the connection's background loop; public attributes become
properties.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "wormspace"
TARGET = PACKAGE / "sync.py"

CLASSES = {
    "Client": "space/client.py",
    "Space": "space/space.py",
    "Segment": "space/segment.py",
    "Log": "log/log.py",
    "Cursor": "log/cursors.py",
}
INTERNAL = {"Client": {"deadline", "nonce"}, "Log": {"open"}, "Cursor": {"close"}}
"""Public by name, because the layers use them among themselves, but not calls for users."""

APPLICATIONS = ("log",)
"""The calls of `worm.Worm` that have a twin.  A transaction has none: what it gives its user are
the participants' own asynchronous sessions."""

ATTRIBUTES = {
    "Client": (),
    "Space": (("name", "str", "1 to 255 bytes."),),
    "Segment": (
        ("number", "int", "Its place in the space, from 0."),
        ("size", "int", "How many registers it has."),
        ("metadata", "bytes", "What its allocator said it is for."),
    ),
    "Log": (
        ("name", "str", "The log's."),
        ("segment_size", "int", "Registers per segment; trimming frees whole segments."),
    ),
    "Cursor": (("name", "str", "The consumer's."),),
}
PARENT = {
    "Space": ("client", "Client", "The connection it belongs to."),
    "Segment": ("space", "Space", "The space it belongs to."),
    "Log": ("client", "Client", "The connection it belongs to."),
    "Cursor": ("log", "Log", "The log it belongs to."),
}
FEEDS = tuple(f"{kind}[{of}]" for kind in ("AsyncIterator", "Stream") for of in ("Event", "Entry"))

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
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import wormspace.connecting as _connecting
import wormspace.log.cursors as _cursor
import wormspace.log.log as _log
import wormspace.space.segment as _segment
import wormspace.space.space as _space
from wormspace._sync_runtime import Background, Feed
from wormspace.log import Entry, Info, SequencerChoice
from wormspace.log.checks import NO_HEADERS
from wormspace.registers.interface import Captured, RegisterState, ServerState
from wormspace.registers.token import Token
from wormspace.space.address import Address
from wormspace.space.client import DEFAULT_TIMEOUT_S
from wormspace.space.events import Event
from wormspace.space.space import DEFAULT_SIZE
from wormspace.worm import Worm

__all__ = ["Client", "Cursor", "Feed", "Log", "Segment", "Space", "connect"]


def connect(
    url: str, *, timeout: float = DEFAULT_TIMEOUT_S, rng: random.Random | None = None
) -> Client:
'''

CONNECT_BODY = """\

    async def opening() -> Worm:
        return await _connecting.connect(url, timeout=timeout, rng=rng)

    return Client(Background.connect(opening))
"""

CLIENT_LIFE = """
    def __init__(self, background: Background) -> None:
        self._background = background
        self._twin = background.client
"""

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

PART_LIFE = '''
    def __init__(self, background: Background, {parent}: {parent_class}, twin: {twin}) -> None:
        self._background = background
        self._{parent} = {parent}
        self._twin = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    @property
    def {parent}(self) -> {parent_class}:
        """{parent_doc}"""
        return self._{parent}
'''


def generate() -> str:
    """The text of the twin."""
    out = [HEADER, _connect_doc(), CONNECT_BODY]
    for name, file in CLASSES.items():
        out.append(_class(_find(file, name)))
    text = "".join(out)
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(ruff, input=text, text=True, capture_output=True, check=True).stdout


def _find(file: str, name: str) -> ast.ClassDef:
    tree = ast.parse((PACKAGE / file).read_text())
    return next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)


def _calls(name: str, node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The public methods of a class that are for users."""
    hidden = INTERNAL.get(name, ())
    found = [
        item
        for item in node.body
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
        and not item.name.startswith("_")
        and item.name not in hidden
    ]
    if name == "Client":
        worm = _find("worm.py", "Worm").body
        found += [
            item
            for item in worm
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            and item.name in APPLICATIONS
        ]
    return found


def _connect_doc() -> str:
    tree = ast.parse((PACKAGE / "connecting.py").read_text())
    node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "connect")
    doc = (ast.get_docstring(node) or "").replace("async with wormspace.", "with wormspace.sync.")
    doc = doc.replace("await ", "").replace("Raises (when awaited):", "Raises:")
    return _docstring(doc, "    ")


def _class(node: ast.ClassDef) -> str:
    name = node.name
    doc = (ast.get_docstring(node) or "").split("\n\n")
    kept = [part for part in doc if not part.startswith("Attributes:")]
    text = _plain("\n\n".join(kept)).replace("`wormspace.connect`", "`wormspace.sync.connect`")
    out = [f"\n\nclass {name}:\n", _docstring(text, "    ")]
    if name in PARENT:
        parent, parent_class, parent_doc = PARENT[name]
        out.append(
            PART_LIFE.format(
                parent=parent,
                parent_class=parent_class,
                parent_doc=parent_doc,
                twin=f"_{name.lower()}.{name}",
            )
        )
    else:
        out.append(CLIENT_LIFE)
    calls = _calls(name, node)
    if any(item.name == "close" for item in calls):
        out.append(WITH)
    for attribute, kind, about in ATTRIBUTES[name]:
        out.append(
            f"\n    @property\n    def {attribute}(self) -> {kind}:\n"
            f'        """{about}"""\n        return self._twin.{attribute}\n'
        )
    out += [_method(name, item) for item in calls]
    return "".join(out)


def _method(owner: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    returns = ast.unparse(node.returns) if node.returns else "None"
    shown = re.sub(r"^(AsyncIterator|Stream)\[", "Feed[", returns)
    head = f"    def {node.name}({_arguments(node.args)}) -> {shown}:\n"
    if len(head) > 101:
        head = f"    def {node.name}(\n        {_arguments(node.args)}\n    ) -> {shown}:\n"
    doc = _plain(ast.get_docstring(node) or "")
    call = f"self._twin.{node.name}({_passed(node.args)})"
    if owner == "Client" and node.name == "close":
        body = "        self._background.close()\n"
    elif isinstance(node, ast.FunctionDef):
        body = f"        return {_wrapped(owner, returns, call)}\n"
    else:
        run = f"self._background.call(lambda: {call})"
        if len(run) > 85:
            run = f"self._background.call(\n            lambda: {call}\n        )"
        if returns == "None":
            body = f"        {run}\n"
        elif returns in PARENT:
            body = f"        twin = {run}\n        return {_wrapped(owner, returns, 'twin')}\n"
        else:
            body = f"        return {run}\n"
    return "\n" + head + _docstring(doc, "        ") + body


def _plain(doc: str) -> str:
    """A docstring without the words of asyncio."""
    return re.sub(r"\b(await |async (?=for|with))", "", doc)


def _wrapped(owner: str, returns: str, twin: str) -> str:
    if returns in FEEDS:
        return f"Feed(self._background, lambda: {twin})"
    if returns in PARENT:
        return f"{returns}(self._background, self, {twin})"
    raise SystemExit(f"{owner}: no rule for a plain method that returns {returns}")


def _arguments(args: ast.arguments) -> str:
    return ast.unparse(args)


def _passed(args: ast.arguments) -> str:
    plain = [a.arg for a in args.args if a.arg != "self"]
    return ", ".join(plain + [f"{a.arg}={a.arg}" for a in args.kwonlyargs])


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
