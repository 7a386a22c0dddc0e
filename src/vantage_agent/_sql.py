"""Parse the operation and the table of an SQL statement, the only parts that are sent.

Only a keyword of a closed list and an identifier may leave the process. Dialects disagree on where a string or a
comment ends (backslashes in MySQL, nested comments in PostgreSQL, ``--`` without a blank, a lone carriage return,
``#``): parsing stops at the first such position.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

STATEMENT_LENGTH_MAX = 1000  # that is searched for the table
TABLE_LENGTH_MAX = 100
OTHER_OPERATION = "_OTHER"
_OPERATIONS = frozenset(
    re.findall(
        r"\w+",
        """
        SELECT INSERT UPDATE DELETE MERGE REPLACE UPSERT WITH VALUES TABLE CREATE ALTER DROP TRUNCATE RENAME COMMENT
        BEGIN START COMMIT ROLLBACK SAVEPOINT RELEASE END ABORT SET RESET SHOW DESCRIBE DESC EXPLAIN USE CALL EXECUTE
        EXEC PREPARE DEALLOCATE DO DECLARE FETCH MOVE CLOSE COPY LOAD GRANT REVOKE LOCK UNLOCK LISTEN NOTIFY UNLISTEN
        PRAGMA ANALYZE VACUUM REINDEX CLUSTER CHECKPOINT DISCARD REFRESH ATTACH DETACH OPTIMIZE
        """,
    )
)
# The word that precedes the table. A statement without it has no table.
_BEFORE_TABLE = {
    "SELECT": "FROM",
    "DELETE": "FROM",
    "INSERT": "INTO",
    "REPLACE": "INTO",
    "MERGE": "INTO",
    "UPDATE": "UPDATE",
    "CREATE": "TABLE",
    "ALTER": "TABLE",
    "DROP": "TABLE",
    "TRUNCATE": "TRUNCATE",
}
# Words that may stand between that word and the table.
_FILLERS = frozenset(("ONLY", "OR", "ROLLBACK", "ABORT", "REPLACE", "FAIL", "IGNORE", "IF", "NOT", "EXISTS", "TABLE"))
_QUOTED = r'"[A-Za-z0-9_.$]+"|`[A-Za-z0-9_.$]+`|\[[A-Za-z_][A-Za-z0-9_.$]*\]'
_TOKEN = re.compile(
    r"(?P<blank>\s+|--[ \t][^\r\n]*(?:\r?\n|\Z)|/\*(?:(?!/\*|\*/)[\s\S])*\*/)"
    r"|(?P<parameter>[:@]+\w+|\$\w+|%\(\w+\)s|%s)"
    rf"|(?P<name>(?:[^\W\d]\w*(?:\$\w*)*|{_QUOTED})(?:\.(?:[^\W\d]\w*(?:\$\w*)*|{_QUOTED}))*)"
    r"|(?P<number>\d+(?:\.\d*)?)"
    r"|(?P<mark>/(?!\*)|-(?!-)|[^\s'\"`\\#$/-])"
)
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.$]*")
_QUOTES = re.compile(r'["`\[\]]')


def summary(statement: str) -> tuple[str, str]:
    """Return the operation, '' without a statement, and the table, '' if it is uncertain."""
    words = _outermost(statement)
    first = next(words, "").upper()
    if not first:
        return ("" if not statement.strip() else OTHER_OPERATION), ""
    if first == "WITH":
        first = next((word.upper() for word in words if word.upper() in _BEFORE_TABLE), first)
    if first not in _OPERATIONS:
        return OTHER_OPERATION, ""
    return first, _table(first, words)


def _table(operation: str, words: Iterator[str]) -> str:
    before = _BEFORE_TABLE.get(operation)
    if before is None:
        return ""
    if before != operation:
        last = ""
        for word in words:
            if word.upper() == before and last != "DISTINCT":  # IS DISTINCT FROM
                break
            last = word.upper()
    for word in words:
        if word.upper() not in _FILLERS:
            name = _QUOTES.sub("", word)
            return name if len(name) <= TABLE_LENGTH_MAX and _TABLE.fullmatch(name) else ""
    return ""


def _outermost(statement: str) -> Iterator[str]:
    """Yield the names and marks outside of parentheses, as long as they are certain. A group becomes one ``)``."""
    depth = position = 0
    end = len(statement)
    while position < end:
        match = _TOKEN.match(statement, position)
        if match is None:
            return
        position = match.end()
        kind, text = match.lastgroup, match.group()
        if position == end == STATEMENT_LENGTH_MAX:  # the statement may have been longer
            return
        if kind == "mark":
            if text == "(":
                depth += 1
            elif text == ")":
                depth -= 1
                if depth < 0:
                    return
        if depth == 0 and kind != "blank":
            yield text
