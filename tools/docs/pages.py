"""The pages that `make docs` adds to those in docs/.

Those that lie at the root of the repository, where people look for them first; and a reference,
made from the docstrings, of what programs import.  MkDocs calls the functions named `on_...`.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

AT_THE_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that are not in docs/, and what they are called in the site."""

ERRORS = "wormspace.errors"

REFERENCE = [
    "wormspace",
    ERRORS,
    "wormspace.sync",
    "wormspace.log",
    "wormspace.smr",
    "wormspace.tx",
    "wormspace.tx.postgres",
    "wormspace.tx.mariadb",
    "wormspace.tx.metrics",
    "wormspace.sim",
    "wormspace.registers",
]
"""What programs import: a page each."""

FROM_ELSEWHERE = re.compile(r'<(?!a\b)[^>]*\b(?:src|href|action|data)="((?:https?:)?//[^"]*)"')
"""What a browser fetches to show a page, and does not find beside it; links are no such thing."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference into the navigation."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and "Reference" in entry:
            entry["Reference"] += [{module: page_of(module)} for module in REFERENCE]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, uri in AT_THE_ROOT.items():
        files.append(File.generated(config, uri, content=moved((ROOT / name).read_text())))
    for module in REFERENCE:
        files.append(File.generated(config, page_of(module), content=reference(module)))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Refuse a page that would load something from elsewhere: the site works offline."""
    loaded = FROM_ELSEWHERE.findall(output)
    if loaded:
        raise PluginError(f"{page.file.src_uri} loads {', '.join(loaded)}: keep a copy in docs/")


def page_of(module: str) -> str:
    return f"reference/{module}.md"


def moved(text: str) -> str:
    """A page of the root with its links to others, as they are from docs/."""
    for name, uri in AT_THE_ROOT.items():
        text = text.replace(f"]({name}", f"]({uri}")
    return re.sub(r"\]\(docs/", "](", text)


def reference(module: str) -> str:
    """The page of a module: what it exports, but for errors that have a page of their own."""
    page = f"# {module}\n\n::: {module}\n"
    names = getattr(importlib.import_module(module), "__all__", None)
    if names is None:
        return page
    errors = vars(importlib.import_module(ERRORS))
    members = [name for name in names if name not in errors]
    return page + f"    options:\n      members: [{', '.join(members)}]\n"
