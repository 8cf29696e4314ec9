"""Values as people and scripts see them."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from wormspace.cli.show import PREVIEW, as_json_value, escaped, preview


@given(st.binary())
def test_json_turns_back_into_the_same_bytes(value: bytes) -> None:
    shown = as_json_value(value)
    assert shown is not None
    back = shown["text"].encode() if "text" in shown else base64.b64decode(shown["base64"])
    assert back == value


@given(st.binary() | st.text().map(str.encode))
def test_nothing_shown_can_upset_a_terminal(value: bytes) -> None:
    assert escaped(value).isprintable()
    assert preview(value).isprintable()


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_different_values_look_different(a: bytes, b: bytes) -> None:
    if a != b and all(_is_text(v) for v in (a, b)):
        assert escaped(a) != escaped(b)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_a_preview_is_the_beginning() -> None:
    assert preview(b"short") == "short"
    assert preview("é".encode() * 1000) == "é" * (PREVIEW - 1) + "…"
    assert preview(b"x" + "é".encode() * 1000) == "x" + "é" * (PREVIEW - 2) + "…"
    assert preview(b"\xff" * 1000).startswith("\\xff\\xff")
    assert preview("é".encode() * 100 + b"\xff") == "é" * (PREVIEW - 1) + "…"
