"""The reference of `wormspace.sync`: a method that is one line in the source is shown in full.

    read = waiting(segments.Segment.read)

has the parameters and the docstring of `Segment.read`, without the words of asyncio.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Attribute, Class, Docstring, ExprCall, Extension, Function, Module

from wormspace.sync.delegating import plain

DELEGATES = re.compile(r"^(?:waiting|running|streaming|making|replicating|attaching)$")


class Twins(Extension):
    """Puts the methods in the place of such lines."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """The package was loaded."""
        for module in pkg["sync"].modules.values():
            for owner in module.classes.values():
                if not owner.is_alias:
                    self._show(owner, pkg)

    def _show(self, owner: Class, pkg: Module) -> None:
        for name, member in list(owner.attributes.items()):
            value = member.value if isinstance(member, Attribute) else None
            if not isinstance(value, ExprCall) or not DELEGATES.match(str(value.function)):
                continue
            path = value.arguments[0].canonical_path.removeprefix(f"{pkg.name}.")
            method = pkg[path]
            shown = Function(
                name,
                lineno=member.lineno,
                parameters=method.parameters,
                returns=method.returns,
                docstring=Docstring(plain(method.docstring.value)) if method.docstring else None,
            )
            owner.set_member(name, shown)
            shown.parent = owner
