"""What decoding raises, whatever the bytes are: each place that takes in bytes catches all of it.

Text that is no UTF-8, and nesting too deep to follow, are told apart by Python and not by msgspec.
"""

from __future__ import annotations

import msgspec

MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Raised for bytes that are no such message.  With `msgspec.MsgspecError` alone, one byte sequence
in a register, a file or a message ends whoever reads it."""
