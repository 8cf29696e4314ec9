"""Which statements end or begin a transaction, so that they can be refused before they are sent.

In a block, the transaction is ended by its votes: a COMMIT of the user's own would make half of it
take effect whatever the others vote.
"""

from __future__ import annotations

import re

from wormspace.errors import UsageError

_WORD = r"[^\W\d][\w$]*+"
# What is not closed goes to the end, so each character is looked at once.
_SKIPPED_BY_POSTGRES = r"""--[^\n]*+|\s++|[eE]'(?:[^'\\]|\\(?:.|\Z)|'')*+(?:'|\Z)
    |'(?:[^']|'')*+(?:'|\Z)|"(?:[^"]|"")*+(?:"|\Z)|\$(?P<tag>(?:[^\W\d]\w*+)?+)\$.*?(?:\$(?P=tag)\$|\Z)"""
_SKIPPED_BY_MARIADB = r"""--[^\n]*+|\#[^\n]*+|\s++|'(?:[^'\\]|\\(?:.|\Z)|'')*+(?:'|\Z)
    |"(?:[^"\\]|\\(?:.|\Z)|"")*+(?:"|\Z)|`[^`]*+(?:`|\Z)|/\*M?!\d*+|\*/"""


class _Scanner:
    """Finds the parts of statements.

    Attributes:
        part: matches the next one.
        rest: matches what nobody looks at, up to a comment or the end of the statement.
    """

    def __init__(self, skipped: str) -> None:
        flags = re.DOTALL | re.VERBOSE
        self.part = re.compile(
            rf"(?P<skip>{skipped})|(?P<comment>/\*)|(?P<end>;)|(?P<word>{_WORD})|(?P<other>.)",
            flags,
        )
        self.rest = re.compile(rf"(?:{skipped}|{_WORD}|(?!/\*|;).)*+", flags)


_POSTGRES, _MARIADB = _Scanner(_SKIPPED_BY_POSTGRES), _Scanner(_SKIPPED_BY_MARIADB)
_COMMENT = re.compile(r"/\*|\*/")

_POSTGRES_CONTROL = {"BEGIN", "START", "COMMIT", "END", "ABORT"}
_MARIADB_CONTROL = {"BEGIN", "START", "COMMIT", "XA"}
_NOISE = {"WORK", "TRANSACTION"}
WORDS = 3
"""How many words of a statement tell what it is."""


def refuse_control(statement: str, *, mariadb: bool = False) -> None:
    """Pass every statement that neither begins nor ends a transaction.

    Savepoints are the user's own, and so is ROLLBACK TO one.

    Raises:
        UsageError: it does; nothing was sent.
    """
    if mariadb:  # it is sent one statement at a time
        found, control = _statements(statement, _MARIADB)[:1], _MARIADB_CONTROL
    else:
        found, control = _statements(statement, _POSTGRES), _POSTGRES_CONTROL
    for words in found:
        if _is_control(words, control):
            raise UsageError(
                f"{' '.join(words[:2])} was not sent: the block is the transaction.  Leave it to "
                "commit, raise an exception in it to roll back; a savepoint can be rolled back to"
            )


def _is_control(words: list[str], control: set[str]) -> bool:
    first, *rest = words
    if first == "ROLLBACK":
        return [word for word in rest if word not in _NOISE][:1] != ["TO"]
    if first == "BEGIN" and rest[:2] == ["NOT", "ATOMIC"]:
        return False
    return first in control or (first == "PREPARE" and rest[:1] == ["TRANSACTION"])


def _statements(text: str, scanner: _Scanner) -> list[list[str]]:
    """The first words of each statement, in capitals; a parenthesis or the like counts as one."""
    found: list[list[str]] = []
    words: list[str] = []
    at = 0
    while True:
        if len(words) == WORDS and (rest := scanner.rest.match(text, at)) is not None:
            at = rest.end()
        if (match := scanner.part.match(text, at)) is None:
            break
        at = match.end()
        if match["comment"]:
            at = _after_comment(text, at)
        elif match["end"]:
            found.append(words)
            words = []
        elif word := match["word"] or match["other"]:
            words.append(word.upper())
    return [words for words in [*found, words] if words]


def _after_comment(text: str, at: int) -> int:
    """Where a comment ends that began before `at`; PostgreSQL's may be nested."""
    depth = 1
    while depth and (match := _COMMENT.search(text, at)) is not None:
        depth += 1 if match[0] == "/*" else -1
        at = match.end()
    return at if not depth else len(text)
