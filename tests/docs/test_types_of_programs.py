"""A user's program passes `mypy --strict` and pyright as it stands: no cast, no ignored line."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_examples import BLOCK, PAGES, ROOT

EXAMPLES = ROOT / "examples"
FOR_USERS = [page for page in PAGES if page.name != "registers.md"]
"""All but the one for whoever writes an implementation, whose example is short without types."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of the README and of docs/, each in a file called like its page and line."""
    directory = tmp_path_factory.mktemp("programs")
    for page in FOR_USERS:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start(1)) + 1
            program = "import wormspace\n\n\nasync def program() -> None:\n"
            program += textwrap.indent(match.group(1), "    ")
            (directory / f"{page.stem.replace('-', '_')}_{line}.py".lower()).write_text(program)
    return directory


def run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def test_no_program_ignores_its_types(programs: Path) -> None:
    for path in [*EXAMPLES.glob("*.py"), *programs.iterdir()]:
        text = path.read_text()
        assert "type: ignore" not in text and "cast(" not in text, path  # noqa: PT018


def test_mypy_is_content_with_every_program(programs: Path, tmp_path: Path) -> None:
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\nstrict = true\n")
    mypy = [sys.executable, "-m", "mypy", "--config-file", settings, "--cache-dir"]
    assert run(*mypy, ROOT / ".mypy_cache", EXAMPLES, programs) == ""


def test_pyright_is_content_with_every_program(programs: Path, tmp_path: Path) -> None:
    settings = tmp_path / "pyrightconfig.json"
    settings.write_text(json.dumps({"include": [str(EXAMPLES), str(programs)]}))
    pyright = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    assert run(*pyright, EXAMPLES, programs) == ""
