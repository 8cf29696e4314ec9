"""What a space is for, said in the metadata of each of its segments.

A log that is opened under the name of a replicated object would write into it, and destroy it.  So
every application stamps the segments that it allocates with what they are, and reads the stamp
before it does anything else.

A stamp is `\\x00wor`, the version of the format (1 byte), the length of the kind (1 byte), the
kind in ASCII, and then what the application wants to say.  Metadata of a user's own segments has no
stamp, and needs none.
"""

from __future__ import annotations

from wormspace.errors import NewerFormat, WrongKind

_MARK = b"\x00wor"


def stamp(kind: str, version: int, payload: bytes = b"") -> bytes:
    """Metadata for a segment of an application.

    Args:
        kind: what the space is, for instance "log"; ASCII, at most 255 characters.
        version: of the application's format, 1 to 255.
    """
    name = kind.encode("ascii")
    return _MARK + bytes([version, len(name)]) + name + payload


def read_stamp(metadata: bytes) -> tuple[str, int, bytes] | None:
    """Kind, version and payload of stamped metadata; None if nobody stamped it."""
    size = len(_MARK)
    if not metadata.startswith(_MARK) or len(metadata) < size + 2:
        return None
    version, length = metadata[size], metadata[size + 1]
    name = metadata[size + 2 : size + 2 + length]
    if len(name) != length or not name.isascii():
        return None
    return name.decode("ascii"), version, metadata[size + 2 + length :]


def require_stamp(metadata: bytes, kind: str, newest: int, space: str) -> tuple[int, bytes]:
    """Version and payload of metadata that has to be this application's.

    Args:
        newest: the newest version of the format that the caller reads.
        space: its name, for the message.

    Raises:
        WrongKind: the space is something else.
        NewerFormat: a newer wormspace made it.
    """
    found = read_stamp(metadata)
    if found is None:
        raise WrongKind(f"space {space!r} is no {kind}: its segments are of the user's own making")
    if found[0] != kind:
        raise WrongKind(f"space {space!r} is no {kind}, it is a {found[0]}; choose another name")
    if found[1] > newest:
        raise NewerFormat.of(f"{kind} {space!r}", found[1], newest)
    return found[1], found[2]
