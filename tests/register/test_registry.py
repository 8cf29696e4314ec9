"""Implementations are found by the scheme of a URL, whoever made them."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import wormspace
from wormspace.connecting import survey
from wormspace.errors import BadUrl, Unavailable
from wormspace.registers import registry
from wormspace.registers.registry import Implementation, Url, find
from wormspace.registers.spec import SpecRegisters

ROOT = Path(__file__).parents[2]

asked: list[tuple[Url, float, bool]] = []


async def _open(url: Url, *, rng: object, deadline: float, wait: bool) -> SpecRegisters:
    asked.append((url, deadline, wait))
    return SpecRegisters(10)


MINE = Implementation(_open, "mine:NAME", embedded=False)
NOT_ONE = "a module may have anything"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the entry points of installed packages say, by scheme."""
    said: dict[str, list[str]] = {"mine": [f"{__name__}:MINE"]}

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        assert group == "wormspace.registers"
        names = said if name is None else [name]
        return [EntryPoint(one, at, group) for one in names for at in said.get(one, ())]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return said


def test_all_of_ours_can_be_loaded_and_say_how_their_urls_look() -> None:
    assert {scheme: find(scheme).usage.partition(":")[0] for scheme in registry.BUILT_IN} == {
        scheme: scheme for scheme in registry.BUILT_IN
    }


def test_all_of_ours_are_in_the_table_of_the_page_with_the_files_where_they_are() -> None:
    table = (
        (ROOT / "docs" / "registers.md").read_text().partition("| URL |")[2].partition("\n\n")[0]
    )
    rows = re.findall(r"^\| `(\w+):[^`]*` \|.*\| `([\w/]+)\.py` \|$", table, re.MULTILINE)
    where = {scheme: at.partition(":")[0] for scheme, at in registry.BUILT_IN.items()}
    assert {scheme: f"wormspace.{file.replace('/', '.')}" for scheme, file in rows} == where


async def test_the_scheme_of_another_package_opens_its_registers(installed: object) -> None:
    asked.clear()
    async with wormspace.connect("mine:a/b?c=d&e=", timeout=3.0) as worm:
        assert type(worm.registers) is SpecRegisters
        assert not worm.embedded
    async with await survey("mine:"):
        pass
    (url, deadline, wait), (_, _, waits_not) = asked
    assert url == Url("mine", "a/b", {"c": "d", "e": ""})
    assert deadline > 0
    assert (wait, waits_not) == (True, False)


async def test_of_an_unknown_scheme_it_is_said_which_are_known(installed: object) -> None:
    with pytest.raises(BadUrl) as told:
        await wormspace.connect("wrom://h:1")
    assert str(told.value) == (
        "'wrom://h:1': no register implementation 'wrom'; there are memory:, file:, worm:, "
        "spec:, mine:"
    )


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (["a.b:C", "d.e:F"], "the scheme of a.b:C and d.e:F; uninstall all but one"),
        (["no_such_module:X"], "loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ([f"{__name__}:NOTHING"], "loaded: AttributeError: module .* has no attribute 'NOTHING'"),
        (["raises:X"], "raises:X, which cannot be loaded: RuntimeError: not today"),
        (["is_not_python:X"], r"loaded: SyntaxError: .*\(is_not_python.py, line 1\)"),
        (["what is this"], "what is this, which cannot be loaded: AttributeError: .*"),
        ([f"{__name__}:NOT_ONE"], "which is no Implementation: 'a module may have anything'"),
    ],
)
def test_what_is_wrong_with_a_package_is_said(
    installed: dict[str, list[str]],
    at: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "raises.py").write_text("raise RuntimeError('not today')")
    (tmp_path / "is_not_python.py").write_text("def (")
    monkeypatch.syspath_prepend(tmp_path)
    installed["mine"] = at
    with pytest.raises(BadUrl, match=f"^mine: is .*{says}$"):
        find("mine")


def test_of_two_packages_for_one_scheme_both_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("one-of-them", "the-other"):
        info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[wormspace.registers]\nmine = a.b:C\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadUrl) as told:
        find("mine")
    assert str(told.value) == (
        "mine: is the scheme of a.b:C of one-of-them and a.b:C of the-other; uninstall all but one"
    )


def test_no_package_takes_the_place_of_ours(installed: dict[str, list[str]]) -> None:
    installed["memory"] = [f"{__name__}:MINE"]
    assert find("memory") is not MINE
    assert registry.schemes() == ["memory", "file", "worm", "spec", "mine"]


async def test_connecting_gives_up_at_its_deadline() -> None:
    with pytest.raises(Unavailable, match="connecting: 0 of 1 servers answered in time"):
        await wormspace.connect("worm://127.0.0.1:1", timeout=0.05)
