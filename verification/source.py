"""The shipped source, loaded for proof.

`load` reads the text of `src/wormspace/paxos/*.py`, makes *one* rewriting of it, and runs the
result as modules of their own.  The rewriting turns a loop

    for x in xs:                      def body(acc, x):
        acc = step(acc, x)     into       acc = step(acc, x)
                                          return (), (acc,)
                                      early, (acc,) = loop("f:0", body, xs, (acc,), {...})

and nothing else: the statements of the body are the very nodes of the shipped syntax tree, what
it carries from one turn to the next is read off that tree, and a loop of any other form is left
alone (and refuses symbolic sequences).  `loop` runs `body` over a sequence that is known, and
cuts the loop by an invariant where it is not (see `loops`).

tests/verification checks that the rewritten functions and the shipped ones agree on random input.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

WORMSPACE = Path(__file__).resolve().parent.parent / "src" / "wormspace"
PAXOS = WORMSPACE / "paxos"
MODULES = [
    *("ballot", "ranges", "messages", "acceptor", "quorum"),
    *("effects", "accept", "prepare", "reading", "broadcast"),
]
SHIPPED = "wormspace.paxos"


@dataclass(frozen=True)
class Package:
    """Modules that are loaded together.

    Attributes:
        name: of the package.
        folder: where its source is.
        modules: "a.b" is `name`.a.b; each after those that it imports.
        folds: the functions whose loops are rewritten; None: all.
    """

    name: str
    folder: Path
    modules: tuple[str, ...]
    folds: frozenset[str] | None = None


CORE = Package(SHIPPED, PAXOS, tuple(MODULES))

_copies = count()


class NotAFold(Exception):
    """A loop is not of the form that can be cut by an invariant."""


class Core:
    """The modules under proof, as attributes: `core.acceptor.on_write`."""

    def __init__(self, modules: Mapping[str, types.ModuleType], sources: Mapping[str, str]) -> None:
        self.modules = dict(modules)
        self.sources = dict(sources)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.modules[name]
        except KeyError:
            raise AttributeError(name) from None


def shipped(package: Package = CORE) -> dict[str, str]:
    """The source text of a package, by module; by default of the protocol core."""
    return {
        name: (package.folder / f"{name.replace('.', '/')}.py").read_text()
        for name in package.modules
    }


def load(
    loop: Callable[..., Any],
    changed: Mapping[str, str] | None = None,
    package: Package = CORE,
) -> Core:
    """The modules with their loops handed to `loop`; `changed` replaces the text of some."""
    sources = shipped(package) | dict(changed or {})
    prefix = f"_proved_{next(_copies)}"
    sys.modules[prefix] = types.ModuleType(prefix)
    sys.modules[prefix].__path__ = []
    modules: dict[str, types.ModuleType] = {}
    try:
        for name in package.modules:
            tree = _Rewrite(package, prefix, name).visit(ast.parse(sources[name]))
            module = types.ModuleType(f"{prefix}.{name}")
            module.__dict__["__loop__"] = loop
            sys.modules[module.__name__] = modules[name] = module
            setattr(sys.modules[prefix], name, module)
            code = compile(ast.fix_missing_locations(tree), f"{name}.py", "exec")
            exec(code, module.__dict__)  # the repository's own source
    finally:
        for name in [*modules, ""]:
            sys.modules.pop(f"{prefix}.{name}".rstrip("."), None)
    return Core(modules, sources)


class _Rewrite(ast.NodeTransformer):
    def __init__(self, package: Package, prefix: str, module: str) -> None:
        self.package = package
        self.prefix = prefix
        self.module = module

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        package = self.package.name
        within = {package, *(f"{package}.{name}" for name in self.package.modules)}
        if node.module in within and (node.module != package or package == SHIPPED):
            node.module = self.prefix + (node.module or "").removeprefix(package)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        name = f"{self.module}.{node.name}"
        if self.package.folds is None or name in self.package.folds:
            _Loops(name, node).run()
        return node


class _Loops:
    """Rewrites the loops of one function."""

    def __init__(self, name: str, function: ast.FunctionDef) -> None:
        self.name = name
        self.function = function
        self.found = 0

    def run(self) -> None:
        self.function.body = self._block(self.function.body)

    def _block(self, block: list[ast.stmt]) -> list[ast.stmt]:
        out: list[ast.stmt] = []
        for statement in block:
            if isinstance(statement, ast.For) and isinstance(statement.target, ast.Name):
                out += self._cut(statement)
                continue
            if isinstance(statement, ast.If):
                statement.body = self._block(statement.body)
                statement.orelse = self._block(statement.orelse)
            out.append(statement)
        return out

    def _cut(self, loop: ast.For) -> list[ast.stmt]:
        assert isinstance(loop.target, ast.Name)
        site = f"{self.name}:{self.found}"
        self.found += 1
        nodes = [node for statement in loop.body for node in ast.walk(statement)]
        if loop.orelse or any(isinstance(n, ast.Break | ast.For | ast.While) for n in nodes):
            raise NotAFold(f"{site}: break, else or a loop within the loop")
        before = self._bound_before(loop)
        stored = _stored(nodes)
        carried = [name for name in before if name in stored]
        self._check_locals(loop, stored - set(carried) | {loop.target.id})
        n = self.found - 1
        state = ast.Tuple([ast.Name(c, ast.Load()) for c in carried], ast.Load())
        body = [_Leave(state).visit(s) for s in loop.body]
        body.append(ast.Return(ast.Tuple([ast.Tuple([], ast.Load()), state], ast.Load())))
        arguments = [ast.arg(name) for name in [*carried, loop.target.id]]
        define = ast.FunctionDef(
            name=f"__body_{n}__",
            args=ast.arguments([], arguments, None, [], [], None, []),
            body=body,
            decorator_list=[],
        )
        known = ast.Dict(
            [ast.Constant(name) for name in before], [ast.Name(name, ast.Load()) for name in before]
        )
        call = ast.Call(
            ast.Name("__loop__", ast.Load()),
            [ast.Constant(site), ast.Name(define.name, ast.Load()), loop.iter, state, known],
            [],
        )
        early = f"__early_{n}__"
        into = ast.Tuple([ast.Name(c, ast.Store()) for c in carried], ast.Store())
        assign = ast.Assign([ast.Tuple([ast.Name(early, ast.Store()), into], ast.Store())], call)
        leave = ast.If(
            ast.Name(early, ast.Load()),
            [ast.Return(ast.Subscript(ast.Name(early, ast.Load()), ast.Constant(0), ast.Load()))],
            [],
        )
        new: list[ast.stmt] = [define, assign, leave]
        return [ast.copy_location(statement, loop) for statement in new]

    def _bound_before(self, loop: ast.For) -> list[str]:
        args = self.function.args
        names = [a.arg for a in [*args.posonlyargs, *args.args, *args.kwonlyargs]]
        for node in ast.walk(self.function):
            if (
                isinstance(node, ast.Name)
                and isinstance(node.ctx, ast.Store)
                and not node.id.startswith("__")
                and getattr(node, "lineno", loop.lineno) < loop.lineno
                and not _within_comprehension(self.function, node)
                and node.id not in names
            ):
                names.append(node.id)
        targets = {n.target.id for n in _fors(self.function) if isinstance(n.target, ast.Name)}
        return [name for name in names if name not in targets]

    def _check_locals(self, loop: ast.For, private: set[str]) -> None:
        inside = {id(node) for node in ast.walk(loop)}
        for node in ast.walk(self.function):
            if (
                isinstance(node, ast.Name)
                and isinstance(node.ctx, ast.Load)
                and node.id in private
                and id(node) not in inside
                and node.lineno > (loop.end_lineno or 0)
                and not any(
                    isinstance(f.target, ast.Name) and f.target.id == node.id
                    for f in _fors(self.function)
                    if f is not loop
                )
                and not _within_comprehension(self.function, node)
            ):
                raise NotAFold(f"{self.name}: {node.id} is used after the loop that sets it")


class _Leave(ast.NodeTransformer):
    """`continue` and `return` within a loop's body, as the body function says them."""

    def __init__(self, state: ast.Tuple) -> None:
        self.state = state

    def visit_Continue(self, node: ast.Continue) -> ast.Return:
        none = ast.Tuple([], ast.Load())
        return ast.copy_location(ast.Return(ast.Tuple([none, self.state], ast.Load())), node)

    def visit_Return(self, node: ast.Return) -> ast.Return:
        value = node.value or ast.Constant(None)
        early = ast.Tuple([value], ast.Load())
        return ast.copy_location(ast.Return(ast.Tuple([early, self.state], ast.Load())), node)


def _stored(nodes: list[ast.AST]) -> set[str]:
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for n in nodes:  # `table[key] = value` carries the table
        if isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Store):
            if not isinstance(n.value, ast.Name):
                raise NotAFold(f"line {n.lineno}: a store into something without a name")
            names.add(n.value.id)
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store):
            raise NotAFold(f"line {n.lineno}: a store into an attribute")
    return names


def _fors(function: ast.FunctionDef) -> list[ast.For]:
    return [n for n in ast.walk(function) if isinstance(n, ast.For)]


def _within_comprehension(function: ast.FunctionDef, node: ast.Name) -> bool:
    kinds = ast.ListComp | ast.GeneratorExp | ast.DictComp | ast.SetComp
    return any(
        node in set(ast.walk(inner))
        and any(
            isinstance(t, ast.Name) and t.id == node.id
            for g in inner.generators
            for t in ast.walk(g.target)
        )
        for inner in ast.walk(function)
        if isinstance(inner, kinds)
    )
