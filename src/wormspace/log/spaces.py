"""Which spaces a log has, what they are called, and what their segments say they are.

A log `orders` has its entries in the space `orders`, and the rest in `orders/config`,
`orders/sequencer`, `orders/trim` and `orders/cursor/<consumer>`.  No two logs share a space,
because no log's name has one of these four words behind a slash.  What else there is, replicated
objects or segments of the user's own, is told by its stamp, and refused before anything is written.
"""

from __future__ import annotations

from wormspace.errors import BadAddress, NotAllocated, Trimmed, UsageError, WrongKind
from wormspace.log.records import FORMAT
from wormspace.space import Segment, Space, require_stamp, stamp

KIND = "log"

ENTRIES = "entries"
CONFIG = "config"
SEQUENCER = "sequencer"
TRIM = "trim"
CURSOR = "cursor"
RESERVED = (CONFIG, CURSOR, SEQUENCER, TRIM)

MAX_NAME_BYTES = 255
"""Of a space's name."""


def check_log_name(name: str) -> str:
    """A log's name, if it can be one.

    Raises:
        BadAddress: it is empty, too long or no text, or another log may have a space of that name.
    """
    longest = MAX_NAME_BYTES - len(f"/{SEQUENCER}")
    _check_text(name, "a log's name", longest)
    for word in name.split("/")[1:]:
        if word in RESERVED:
            raise BadAddress(
                f"no log is called {name!r}: behind a slash, {', '.join(RESERVED)} are for what "
                "belongs to the log before it; choose another name"
            )
    return name


def cursor_space(log: str, consumer: str) -> str:
    """The name of the space of a consumer's cursor.

    Raises:
        BadAddress: the consumer's name is empty, too long or no text.
    """
    prefix = f"{log}/{CURSOR}/"
    _check_text(consumer, "a consumer's name", MAX_NAME_BYTES - len(prefix.encode()))
    return prefix + consumer


def _check_text(name: str, what: str, longest: int) -> None:
    if not isinstance(name, str):
        raise UsageError(f"{what} is a str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BadAddress(f"{what} is text that UTF-8 can encode, not {name!r}") from None
    if not 0 < size <= longest:
        raise BadAddress(f"{what} has 1 to {longest} bytes here, not {size}")


def metadata(part: str, payload: bytes = b"") -> bytes:
    """What the segments of one of a log's spaces say of themselves."""
    return stamp(KIND, FORMAT, part.encode() + b"\0" + payload)


def require_part(segment: Segment, part: str) -> bytes:
    """The payload of a segment that has to be of this part of a log.

    Raises:
        WrongKind: it is something else.
        NewerFormat: a newer wormspace made it.
    """
    name = segment.space.name
    _, said = require_stamp(segment.metadata, KIND, FORMAT, name)
    found, _, payload = said.partition(b"\0")
    if found != part.encode():
        other = found.decode(errors="replace")
        raise WrongKind(
            f"space {name!r} has the {other} of a log, not the {part} of one; choose another name"
        )
    return payload


async def require_ours(space: Space, part: str) -> None:
    """Make sure that a space is this part of a log, or that nobody uses it yet.

    Raises:
        WrongKind: it is something else.
        NewerFormat: a newer wormspace made it.
        Unavailable.
    """
    while True:
        try:
            require_part(await space.segment(await space.head()), part)
        except Trimmed:
            continue  # meanwhile
        except NotAllocated:
            pass
        return
