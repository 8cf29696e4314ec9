"""docs/architecture.md shows the floors as they are, and the ways that calls really go.

A write and a replicated command run, against servers on the real store, while every function that
is entered is noted; what the page tells must have happened, in the page's order.
"""

from __future__ import annotations

import ast
import contextlib
import re
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import wormspace
from inprocess import serving
from wormspace import StateMachine, command
from wormspace.server.limits import ServerIdentity
from wormspace.server.storage import AcceptorStore
from wormspace.smr import Fixed

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "wormspace"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROW = re.compile(r"^\| `([\w/]+\.py)` \| `([\w.]+)` \|", re.MULTILINE)
AS_TEXT = re.compile(r"`([\w/]+\.py)`, `([\w.]+)`")

Call = tuple[str, str]
"""A file of the package, and a function in it, by its qualified name."""


def section(title: str) -> str:
    text = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert text, title
    return text


def told(title: str) -> list[Call]:
    return ROW.findall(section(title))


def defined(path: Path) -> set[str]:
    """Qualified names of the classes and functions of a file."""

    def within(node: ast.AST, prefix: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + child.name
                yield from within(child, f"{prefix}{child.name}.")

    return set(within(ast.parse(path.read_text()), ""))


def test_the_floors_are_those_of_the_import_rules() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(c for c in tool["contracts"] if c["type"] == "layers")["layers"]
    floors = [re.findall(r"wormspace\.(\w+)", layer) for layer in layers]
    picture = section("The floors").partition("```text\n")[2].partition("```")[0]
    shown = [re.split(r" {3,}", line.strip())[:-1] for line in picture.splitlines()]
    assert shown == [list(names) for names in floors]


def test_every_function_that_the_page_names_is_there() -> None:
    missing = [
        (file, name)
        for file, name in {*ROW.findall(PAGE), *AS_TEXT.findall(PAGE)}
        if name not in defined(PACKAGE / file)
    ]
    assert not missing


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[str]:
    """Three servers on stores of their own; their URL."""
    async with contextlib.AsyncExitStack() as stack:
        ports = []
        for i in range(3):
            identity = ServerIdentity("map", f"s{i}", 0, 1, 3)
            store = AcceptorStore(folder / f"s{i}")
            server = await stack.enter_async_context(serving(store, identity=identity))
            ports.append(server.port)
        yield "worm://" + ",".join(f"127.0.0.1:{port}" for port in ports)


@contextlib.contextmanager
def noted() -> Iterator[list[Call]]:
    """Notes every function of the package that is entered."""
    calls: list[Call] = []

    def note(frame, event: str, _: object) -> None:
        if event == "call":
            path = Path(frame.f_code.co_filename)
            if PACKAGE in path.parents:
                name = path.relative_to(PACKAGE).as_posix()
                calls.append((name, frame.f_code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def assert_happened(way: list[Call], calls: list[Call]) -> None:
    """The way is among the calls, in this order."""
    at = 0
    for step in way:
        assert step in calls, f"{step} does not happen"
        assert step in calls[at:], f"{step} happens earlier than the page tells"
        at = calls.index(step, at) + 1
    assert way


async def test_a_write_goes_the_way_of_the_page(tmp_path: Path) -> None:
    async with cluster(tmp_path) as url, wormspace.connect(url, timeout=60) as worm:
        segment = await worm.space("map").alloc(b"")
        captured = await segment.capture()
        await segment.write(1, b"before", captured.token)
        with noted() as calls:
            await segment.write(0, b"hello", captured.token)
            await segment.write(2, b"with it goes that the other one is decided", captured.token)
    assert_happened(told("The way of one write"), calls)


class Inventory(StateMachine):
    stock: dict[str, int] = {}  # noqa: RUF012

    @command
    def receive(self, sku: str, count: int) -> int:
        self.stock[sku] = self.stock.get(sku, 0) + count
        return self.stock[sku]


async def test_a_command_goes_the_way_of_the_page(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(cluster(tmp_path))
        replicas = []
        for name in ("leader", "follower"):
            worm = await stack.enter_async_context(wormspace.connect(url, timeout=60))
            replica = await worm.replicate(
                Inventory,
                "map",
                replica=name,
                leadership=Fixed("leader"),  # no clock decides who leads
                timeout=60,
            )
            stack.push_async_callback(replica.close)
            await replica.receive("widget", 1)
            replicas.append(replica)
        _, follower = replicas
        with noted() as calls:
            assert await follower.receive("widget", 10) == 12
    assert_happened(told("The way of one replicated command"), calls)


@pytest.mark.parametrize("title", ["The way of one write", "The way of one replicated command"])
def test_the_page_tells_a_way_that_is_long_enough_to_be_one(title: str) -> None:
    assert len(told(title)) > 20
