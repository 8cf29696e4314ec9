"""Every Python example in the README and in docs/ runs, as it stands."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples() -> list[object]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start(1)) + 1
            name = f"{page.relative_to(ROOT)}:{line}"
            found.append(pytest.param(page, line, match.group(1), id=name))
    return found


@pytest.mark.parametrize(("page", "line", "source"), examples())
def test_the_example_runs(
    page: Path, line: int, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    header = "import asyncio\nimport wormspace\n"
    code = compile(
        header + "\n" * max(0, line - 1 - header.count("\n")) + source,
        str(page),
        "exec",
        ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
    )
    outcome = eval(code, {"__name__": "example"})
    if inspect.iscoroutine(outcome):
        asyncio.run(asyncio.wait_for(outcome, 30))
