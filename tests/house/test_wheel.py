"""What users install is the package alone, and it works alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77", reason="older than the lock: run make setup")

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "README.md", "LICENSE", "src")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: what an earlier build has left in the tree would get into it."""
    source = tmp_path_factory.mktemp("source")
    for name in FILES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("*.egg-info", "*.pyc")
            )
        else:
            shutil.copy(ROOT / name, source / name)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(source / "out"), str(source))
    [built] = (source / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder in which it is installed, before everything else on the path."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--target", str(folder), str(wheel))
    return folder


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *arguments, "--no-deps"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def run(folder: Path, *command: str) -> str:
    """What it prints, outside of the source tree."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_holds_the_package_and_nothing_else(wheel) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "src" / "wormspace"
    modules = {path.relative_to(ROOT / "src").as_posix() for path in package.rglob("*.py")}
    assert names == modules | {"wormspace/py.typed"}


def test_its_command_works_without_the_source_tree(installed) -> None:
    where = run(installed, "-c", "import wormspace; print(wormspace.__file__)")
    assert Path(where.strip()).parent == installed / "wormspace"
    script = str(installed / "bin" / "wormspace")
    help_text = run(installed, script, "--help")
    assert all(f"  {name} " in help_text for name in ("bench", "sim", "kv", "tx", "log", "up"))
    assert "1 seeds" in run(installed, script, "sim", "--seeds", "1", "--first", "1")


@pytest.mark.processes
def test_its_benchmark_measures(installed) -> None:
    script = str(installed / "bin" / "wormspace")
    sizes = ("--servers", "1", "--windows", "1,8", "--seconds", "0.1", "--out", "metrics")
    assert "a lone write" in run(installed, script, "bench", *sizes)
    assert (installed / "metrics" / "registers.json").stat().st_size > 100
