"""Runs the quick tests on each version of Python that is declared, as far as this machine has it.

    python -m tools.versions          # prints a table; exit code 1 if a version fails
    python -m tools.versions 3.14     # one version, which must be there

Interpreters are looked for on the PATH and among those of pyenv.  Each has an environment of its
own in `.venv/versions`, which stays.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".venv" / "versions"
PYENV = Path.home() / ".pyenv" / "versions"

TOOLS = ("pytest", "pytest-xdist", "hypothesis", "ruff")
"""What the tests need beside the package; their versions are those of requirements-dev.lock."""

QUICK = (
    *("tests/paxos", "tests/wire", "tests/rpc", "tests/conformance", "tests/space"),
    *("tests/server/test_serving.py", "tests/server/test_limits.py", "tests/server/test_logs.py"),
    *("tests/store/test_engines.py", "tests/store/test_closed.py", "tests/store/test_journal.py"),
    *("tests/log/test_log_suite.py", "tests/smr/test_smr_calls.py", "tests/smr/test_smr_types.py"),
    *("tests/smr/test_smr_declare.py", "tests/smr/test_smr_kv.py", "tests/tx/test_tx_votes.py"),
    "tests/test_errors_travel.py",
)


def declared() -> list[str]:
    """The versions that the project's classifiers name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [re.fullmatch(r".* :: (3\.\d+)", line) for line in project["classifiers"]]
    return [match.group(1) for match in found if match]


VERSION = "import sys; print(*sys.version_info[:2], sep='.')"


def interpreter(version: str) -> str | None:
    """An interpreter of a version, if there is one that starts."""
    of_pyenv = sorted(PYENV.glob(f"{version}.*/bin/python{version}"))
    for path in [shutil.which(f"python{version}"), *map(str, reversed(of_pyenv))]:
        if path and said(path, "-c", VERSION) == version:
            return path
    return None


def said(*command: str) -> str:
    """What a command prints; empty if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def environment(version: str, python: str) -> Path:
    """The interpreter of an environment with the package and what its tests need.

    Raises:
        subprocess.CalledProcessError: it could not be made.
    """
    path = ENVIRONMENTS / version
    own = path / "bin" / "python"
    if not own.exists():
        subprocess.run([python, "-m", "venv", path], check=True)
    install = [str(own), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    locked = ["--constraint", str(ROOT / "requirements-dev.lock")]
    package = ["--editable", f"{ROOT}[cli,postgres,mysql]"]
    subprocess.run([*install, *locked, *TOOLS, *package], check=True)
    return own


def run(version: str) -> str:
    """Test one version; how that went, in words."""
    python = interpreter(version)
    if python is None:
        return "not found on this machine"
    try:
        own = environment(version, python)
    except subprocess.CalledProcessError as e:
        return f"failed: {e}"
    whole = said(str(own), "-c", "import platform; print(platform.python_version())")
    marks = "not soak and not processes"
    tests = subprocess.run(
        [own, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "-m", marks, *QUICK],
        cwd=ROOT,
        check=False,
    )
    return f"passed ({whole})" if tests.returncode == 0 else f"failed ({whole})"


def main(versions: list[str]) -> int:
    """Test the versions named, or all that are there; returns the exit code."""
    own = "{}.{}".format(*sys.version_info)
    others = versions or [version for version in declared() if version != own]
    results = {version: run(version) for version in others}
    for version, result in results.items():
        print(f"Python {version}: {result}")
    wanted = "passed" if versions else ("passed", "not found")
    return int(not all(result.startswith(wanted) for result in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
