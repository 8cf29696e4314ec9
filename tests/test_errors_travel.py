"""Errors of every package survive pickling and copying, with all that they say."""

import copy
import importlib
import pickle
import pkgutil

import pytest

import wormspace
from wormspace.errors import AlreadyWritten, PartialWrite, Refused, Unavailable, WormError


def every_error() -> list[type[WormError]]:
    for module in pkgutil.walk_packages(wormspace.__path__, "wormspace."):
        if not module.name.endswith("__main__") and ".cli" not in module.name:
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError:
                continue  # an optional dependency
    found, todo = [], [WormError]
    while todo:
        found.append(todo.pop())
        todo += found[-1].__subclasses__()
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__qualname__)
@pytest.mark.parametrize("again", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_error_travels_whole(kind, again):
    error = kind.__new__(kind, "what happened")
    error.args = ("what happened",)
    error.value, error.detail = b"v", ["more"]
    twin = again(error)
    assert type(twin) is kind
    assert (twin.args, vars(twin)) == (error.args, vars(error))


@pytest.mark.parametrize(
    "error",
    [
        AlreadyWritten("it is written", b"value"),
        Refused("go away", "cluster"),
        PartialWrite("some failed", [None, Unavailable("silent"), AlreadyWritten("x", b"y")]),
    ],
)
def test_errors_with_details_keep_them(error):
    twin = pickle.loads(pickle.dumps(error))
    assert str(twin) == str(error)
    assert repr(vars(twin)) == repr(vars(error))
