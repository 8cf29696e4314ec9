"""These tests need the provers of requirements-prove.lock; without them they are left out."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("z3") and find_spec("cvc5") else ["test_*.py"]
