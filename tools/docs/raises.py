"""Docstrings name the errors that a call raises; the reference says of each what it means.

    Raises:
        NotAllocated, Trimmed.

is enough in a docstring, since an error's own docstring says when it is raised.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object

PACKAGE = Path(__file__).parents[2] / "src" / "wormspace"
SECTION = re.compile(r"^Raises:\n(?: +.*\n?|\n)+", re.MULTILINE)
NAMES = re.compile(r"^( +)([A-Z][\w.]*?(?:, [A-Z][\w.]*?)*)\.?$", re.MULTILINE)


def meanings() -> dict[str, str]:
    """The first sentence of each error's docstring, by the name of the error."""
    return {
        node.name: (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }


class Raises(Extension):
    """Gives each error that is only named the meaning that its own docstring says."""

    def __init__(self) -> None:
        super().__init__()
        self._meanings = meanings()

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of what was just loaded."""
        if obj.docstring:
            obj.docstring.value = SECTION.sub(
                lambda section: NAMES.sub(self._explain, section[0]), obj.docstring.value
            )

    def _explain(self, match: re.Match[str]) -> str:
        margin, names = match.groups()
        return "\n".join(f"{margin}{n}: {self._meanings.get(n, n)}" for n in names.split(", "))
