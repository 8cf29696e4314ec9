"""How deep values may be nested: so deep everywhere, whatever is on a process's stack just then.

Left to the interpreter, a value that is nested some thousand deep is an argument for one replica
and a `RecursionError` for another.
"""

from __future__ import annotations

MAX_NESTING = 128

_SIZES = {
    0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4,
    0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4,
}  # fmt: skip
"""The bytes that say how long the rest is: of binary, extended and text; of arrays and maps."""

_PLAIN = {
    0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
"""The bytes that follow, where that is always as many."""


def is_nested_too_deep(raw: bytes, most: int = MAX_NESTING) -> bool:
    """Whether a msgpack value has arrays and maps in one another, more than `most` of them."""
    at, end = 0, len(raw)
    if end <= most:
        return False
    left: list[int] = []  # what is still to come of each that is open
    while at < end:
        while left and not left[-1]:
            left.pop()
        if left:
            left[-1] -= 1
        first = raw[at]
        at += 1
        members = 0
        if first < 0x80 or first >= 0xE0:
            continue
        if first < 0xA0:
            members = 2 * (first & 15) if first < 0x90 else first & 15
        elif first < 0xC0:
            at += first & 31
        elif first in _SIZES:
            width = _SIZES[first]
            size = int.from_bytes(raw[at : at + width], "big")
            at += width
            if first >= 0xDC:
                members = 2 * size if first >= 0xDE else size
            else:
                at += size + (0xC7 <= first <= 0xC9)
        else:
            at += _PLAIN.get(first, 0)
        if members:
            left.append(members)
            if len(left) > most:
                return True
    return False
