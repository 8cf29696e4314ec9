"""The example of docs/registers.md, installed as a package of its own, is an implementation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "registers.md").read_text()

REOPENED = """
import asyncio, wormspace

async def main():
    async with wormspace.connect("journal:kept") as worm:
        segment = await worm.space("s").alloc(size=4)
        captured = await segment.capture(0, 2)
        await segment.write(0, b"decided", captured.token)
    with open("kept", "ab") as f:
        f.write(b'["write", ["s", 0], 1')
    async with wormspace.connect("journal:kept") as worm:
        segment = await worm.space("s").segment(0)
        assert await segment.read_range(0, 4) == [b"decided", None, None, None]
        assert await segment.holds(captured.token, 1)
        await segment.write(1, b"later", captured.token)
    async with wormspace.connect("journal:kept") as worm:
        log = await worm.log("orders")
        assert await log.append(b"an application") == 0
        assert await (await worm.space("s").segment(0)).read(1) == b"later"

asyncio.run(main())
"""


def block(language: str) -> str:
    [text] = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return text


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a Python in which the package is installed: its files lie where installers lay them."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads(block("toml"))["project"]
    [(group, entries)] = project["entry-points"].items()
    [(scheme, at)] = entries.items()
    (site / f"{at.partition(':')[0]}.py").write_text(block("python"))
    told = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    told.mkdir()
    told.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    told.joinpath("entry_points.txt").write_text(f"[{group}]\n{scheme} = {at}\n")
    return {**os.environ, "PYTHONPATH": str(site)}


def test_what_it_keeps_is_there_when_it_is_opened_again(environment, tmp_path) -> None:
    subprocess.run([sys.executable, "-c", REOPENED], cwd=tmp_path, env=environment, check=True)


def test_the_conformance_suite_finds_it_and_it_passes(environment) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "tests/conformance", "-k", "journal"),
            *("-q", "-p", "no:cacheprovider", "-p", "no:randomly"),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed[1]) > 100
