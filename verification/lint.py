"""What may not stand in a proved function, nor in anything it calls.

A symbolic value refuses loudly what it cannot follow, with exceptions: identity, reflection and
caught exceptions would be answered *silently*, and wrongly.  This lint walks the whole call
closure in the syntax trees of the shipped modules, and lets pass only what is listed here: a
name that it cannot resolve is an error, not a guess.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from verification.source import SHIPPED

REFUSED = (
    ast.Try, ast.TryStar, ast.With, ast.AsyncWith,
    ast.Global, ast.Nonlocal, ast.While, ast.Lambda, ast.Import, ast.ImportFrom, ast.Yield,
    ast.YieldFrom, ast.Await, ast.Match, ast.NamedExpr, ast.Assert, ast.Set, ast.SetComp,
    ast.JoinedStr, ast.Delete, ast.AsyncFor, ast.AsyncFunctionDef,
)  # fmt: skip
BUILTINS = {"tuple", "list", "sorted", "all", "max", "range"}
METHODS = {"bit_count", "bit_length", "get", "setdefault", "append"}
REFLECTION = {"id", "hash", "getattr", "vars", "repr"}
LIBRARY = {"msgspec.structs.replace"}


class LintError(Exception):
    """A proved function does what symbolic values cannot see."""


@dataclass
class Module:
    """What the names at a module's top level stand for."""

    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    submodules: dict[str, str] = field(default_factory=dict)


def index(sources: Mapping[str, str], shipped: str = SHIPPED) -> dict[str, Module]:
    """The top level of every module of a package."""
    modules: dict[str, Module] = {}
    for name, text in sources.items():
        module = modules[name] = Module()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                module.functions[node.name] = node
            elif isinstance(node, ast.ClassDef):
                module.classes[node.name] = node
            elif isinstance(node, ast.ImportFrom) and node.module == shipped:
                for alias in node.names:
                    module.submodules[alias.asname or alias.name] = alias.name
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(shipped + "."):
                source = (node.module or "").removeprefix(shipped + ".")
                for alias in node.names:
                    module.imported[alias.asname or alias.name] = (source, alias.name)
    return modules


def closure(
    sources: Mapping[str, str],
    roots: Iterable[str],
    shipped: str = SHIPPED,
    apart: Collection[str] = (),
) -> tuple[set[str], list[str]]:
    """Every function that the roots ("module.function") can reach, and what is wrong in them.

    Those that stand `apart` are looked at by `procedures` instead.
    """
    modules = index(sources, shipped)
    todo, seen, faults = list(roots), set[str](), list[str]()
    while todo:
        qualified = todo.pop()
        if qualified in seen:
            continue
        seen.add(qualified)
        module, name = qualified.rsplit(".", 1)
        function = modules[module].functions.get(name)
        if function is None:
            faults.append(f"{qualified}: there is no such function")
            continue
        for node in ast.walk(function):
            where = f"{qualified}, line {getattr(node, 'lineno', function.lineno)}"
            if isinstance(node, REFUSED):
                faults.append(f"{where}: {type(node).__name__}")
            if isinstance(node, ast.Compare) and not _may_compare(node):
                faults.append(f"{where}: {ast.unparse(node)}")
            if isinstance(node, ast.Call):
                callee, fault = _resolve(node.func, modules, module)
                if callee and callee not in apart:
                    todo.append(callee)
                if fault:
                    faults.append(f"{where}: {fault}")
        if function.decorator_list:
            faults.append(f"{qualified}: decorated")
    return seen, sorted(set(faults))


def procedures(sources: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """What is wrong in functions ("module.name" or "module.Class.name") that await registers.

    They may do more than the core: what they meet is a symbolic value, which refuses loudly, or a
    concrete thing.  But they must not swallow the refusal, nor look at identity.
    """
    faults = []
    for qualified in names:
        function = find(sources, qualified)
        for node in ast.walk(function):
            where = f"{qualified}, line {getattr(node, 'lineno', function.lineno)}"
            if isinstance(node, ast.ExceptHandler):
                kind = "" if node.type is None else ast.unparse(node.type)
                if kind in ("", "Exception", "BaseException"):
                    faults.append(f"{where}: except {kind}")
            if isinstance(node, ast.Compare) and not _identity_of_none(node):
                faults.append(f"{where}: {ast.unparse(node)}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in REFLECTION:
                faults.append(f"{where}: {ast.unparse(node)}")
    return sorted(set(faults))


def find(
    sources: Mapping[str, str], qualified: str, tree: ast.Module | None = None
) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """A function or method in the syntax tree of its module (or in `tree`)."""
    module = max((m for m in sources if qualified.startswith(m + ".")), key=len)
    node: ast.AST = tree or ast.parse(sources[module])
    for name in qualified.removeprefix(module + ".").split("."):
        body: list[ast.stmt] = getattr(node, "body", [])
        found = [n for n in body if getattr(n, "name", "") == name]
        if not found:
            raise LookupError(f"{qualified}: there is no such function")
        node = found[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return node


def _identity_of_none(node: ast.Compare) -> bool:
    pairs = zip(node.ops, node.comparators, strict=True)
    return all(
        not isinstance(op, ast.Is | ast.IsNot)
        or (isinstance(right, ast.Constant) and right.value is None)
        for op, right in pairs
    )


def _may_compare(node: ast.Compare) -> bool:
    """Identity and membership look past a symbolic value; but none ever stands for None."""
    for op, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, ast.In | ast.NotIn):
            return False
        none = isinstance(right, ast.Constant) and right.value is None
        if isinstance(op, ast.Is | ast.IsNot) and not none:
            return False
    return True


def _resolve(func: ast.expr, modules: Mapping[str, Module], here: str) -> tuple[str, str]:
    """The function called, if it is one of ours, and what is wrong with the call, if anything."""
    module = modules[here]
    if isinstance(func, ast.Name):
        home, name = module.imported.get(func.id, (here, func.id))
        if name in modules[home].functions:
            return f"{home}.{name}", ""
        if name in modules[home].classes:
            return "", _class_fault(modules[home].classes[name])
        if name in BUILTINS and hasattr(builtins, name):
            return "", ""
        return "", f"calls {func.id}"
    text = ast.unparse(func)
    if text in LIBRARY:
        return "", ""
    if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name):
        home = module.submodules.get(func.value.id, "")
        if home and func.attr in modules[home].functions:
            return f"{home}.{func.attr}", ""
    if isinstance(func, ast.Attribute) and func.attr in METHODS:
        return "", ""
    return "", f"calls {text}"


def _class_fault(node: ast.ClassDef) -> str:
    """Plain structs construct without code of their own; an exception may keep its arguments."""
    bases = {ast.unparse(base) for base in node.bases}
    if "msgspec.Struct" in bases:
        functions = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
        own = [name for name in functions if name.startswith("__")]
        return f"constructs {node.name}, which defines {', '.join(own)}" if own else ""
    if bases == {"Exception"}:
        return ""
    return f"constructs {node.name}"
