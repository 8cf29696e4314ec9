"""Loads modules from another text: in the process that this is on the path of, and its children.

WORMSPACE_MUTANT is the path of a JSON file with a module's name and its text: that module is loaded
so.  WORMSPACE_REACH is a directory: what ships is loaded with marks of what it reaches, and a
process that a test started leaves there what it reached.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType

_mutant = {"module": "", "text": ""}
if "WORMSPACE_MUTANT" in os.environ:
    with open(os.environ["WORMSPACE_MUTANT"]) as _file:
        _mutant = json.load(_file)


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        if fullname == _mutant["module"]:
            return compile(_mutant["text"], self.path, "exec", dont_inherit=True)
        from tools.mutants import reach

        return compile(reach.marked(self.path), self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _mutant["module"] and not (
            "WORMSPACE_REACH" in os.environ and fullname.startswith("wormspace.")
        ):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


if "WORMSPACE_MUTANT" in os.environ or "WORMSPACE_REACH" in os.environ:
    sys.meta_path.insert(0, _Finder())
