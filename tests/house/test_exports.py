"""What users catch or annotate can be imported from where they import the rest."""

from __future__ import annotations

import pytest

import wormspace
from wormspace import errors, log, smr, tx
from wormspace.log import errors as log_errors
from wormspace.smr import errors as smr_errors
from wormspace.tx import errors as tx_errors

INTERNAL = {"Deposed", "NothingKept"}
"""Caught inside; nobody else ever sees them."""


@pytest.mark.parametrize(
    ("where", "module"),
    [(wormspace, errors), (log, log_errors), (smr, smr_errors), (tx, tx_errors)],
    ids=["wormspace", "log", "smr", "tx"],
)
def test_every_error_is_exported(where, module) -> None:
    defined = {
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }
    assert defined - INTERNAL <= set(where.__all__)


def test_what_calls_return_is_exported() -> None:
    assert {"Stream", "Worm", "Segment", "Space", "Captured", "Event"} <= set(wormspace.__all__)
    assert {"Log", "Entry", "Cursor", "Info"} <= set(log.__all__)


@pytest.mark.parametrize("where", [wormspace, log, smr, tx])
def test_all_that_is_named_is_there(where) -> None:
    for name in where.__all__:
        assert getattr(where, name) is not None
