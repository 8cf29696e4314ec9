"""What the package imports is what installing it brings."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {
    "prometheus-client": "prometheus_client",
    "psycopg[binary]": "psycopg",
    "PyMySQL": "pymysql",
}
"""Packages whose modules have other names."""

EXTRAS = {
    "cli": "cli",
    "bench": "cli",
    "tx/postgres": "postgres",
    "tx/mariadb": "mysql",
    "tx/metrics": "cli",
}
"""Which part of the source an extra is for, by the beginning of its path."""


def declared(requirements: list[str]) -> set[str]:
    names = [re.split(r"[ ;<>=!~]", line)[0] for line in requirements]
    return {MODULES.get(name, name) for name in names}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"wormspace"}


def test_every_import_is_declared_and_every_dependency_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = declared(project["dependencies"])
    extras = {name: declared(lines) for name, lines in project["optional-dependencies"].items()}
    package = ROOT / "src" / "wormspace"
    used = set()
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package).as_posix()
        allowed = set(core)
        for part, extra in EXTRAS.items():
            if where.startswith(part):
                allowed |= extras[extra]
        if where.startswith("cli"):  # shows what other extras bring
            allowed |= set().union(*extras.values())
        undeclared = imported(path) - allowed
        assert not undeclared, f"{where} imports {undeclared}, which pyproject.toml does not name"
        used |= imported(path)
    unused = (core | set().union(*extras.values())) - used
    assert not unused, f"pyproject.toml names {unused}, which nothing imports"


def test_no_two_locks_pin_one_package_differently() -> None:
    """All of them are installed into one environment: whichever came last would win."""
    pinned: dict[str, set[str]] = {}
    for lock in ROOT.glob("requirements-*.lock"):
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE):
            pinned.setdefault(name, set()).add(version)
    assert not {name: versions for name, versions in pinned.items() if len(versions) > 1}
