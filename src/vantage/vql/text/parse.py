"""From text to sqlglot's syntax tree, within bounds. The tree is not run: ``lower_select`` takes what VQL knows.

Functions keep the names they were written with: the dialect knows none, so that one table of ours decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, Final

from sqlglot import exp
from sqlglot.dialects.clickhouse import ClickHouse
from sqlglot.errors import ParseError, SqlglotError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from vantage.core.errors import QueryError
from vantage.vql.check import TEXT_NBYTES_MAX

TOKENS_MAX: Final = 2000
DEPTH_MAX: Final = 24
CACHED_MAX: Final = 64
CACHED_LENGTH_MAX: Final = 1024  # a tree takes some hundred times its text
_OPEN: Final = frozenset({TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE})
_CLOSE: Final = frozenset({TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END})


class Vql(ClickHouse):
    """ClickHouse's grammar without the functions that sqlglot would translate."""

    class Parser(ClickHouse.Parser):  # type: ignore[valid-type, misc] # an attribute, to the checker
        FUNCTIONS: ClassVar[Any] = {}
        FUNCTION_PARSERS: ClassVar[Any] = {}
        NO_PAREN_FUNCTIONS: ClassVar[Any] = {}
        NO_PAREN_FUNCTION_PARSERS: ClassVar[Any] = {"CASE": ClickHouse.Parser.NO_PAREN_FUNCTION_PARSERS["CASE"]}


_DIALECT: Final = Vql()


@dataclass(frozen=True, slots=True)
class Parsed:
    """A statement, its text and the text's tokens; ``explain`` when EXPLAIN stood before it."""

    text: str
    tokens: Sequence[Token]
    tree: exp.Select
    explain: bool

    def item_names(self) -> list[str]:
        """Return the text between the commas of the SELECT, as it was written."""
        return _item_names(self.text, self.tokens)


@dataclass(frozen=True, slots=True)
class ParsedCondition:
    text: str
    tokens: Sequence[Token]
    tree: exp.Expression


def parse(text: str) -> Parsed:
    """Parse one SELECT, perhaps with EXPLAIN. Raises QueryError with an offset."""
    # Dashboards ask the same again and again, and parsing is most of what a text costs. Nothing changes a tree.
    return _parse_cached(text) if len(text) <= CACHED_LENGTH_MAX else _parse(text)


def _parse(text: str) -> Parsed:
    tokens = _tokens(text)
    explain = bool(tokens) and tokens[0].text.upper() == "EXPLAIN"
    if explain:
        at = tokens[0].start
        text = f"{text[:at]}{' ' * 7}{text[at + 7 :]}"  # blank, so that places stay where they are
        tokens = _tokens(text)
    if not tokens:
        raise QueryError("the query is empty", suggestion="write SELECT … FROM metrics WHERE …", at=0)
    first = tokens[0]
    if first.token_type is not TokenType.SELECT:
        raise QueryError(f"only SELECT can be asked, not {first.text[:40]!r}", at=first.start)
    for index, token in enumerate(tokens):
        if token.token_type is TokenType.SEMICOLON and index < len(tokens) - 1:
            raise QueryError("one query at a time: nothing may follow ';'", at=tokens[index + 1].start)
    trees = _run(text, lambda: _DIALECT.parse(text))
    tree = trees[0] if trees else None
    if not isinstance(tree, exp.Select):
        name = "a statement without SELECT" if tree is None else tree.key.upper()
        raise QueryError(f"only a plain SELECT can be asked, not {name}", at=first.start)
    return Parsed(text, tokens, tree, explain)


_parse_cached: Final = lru_cache(CACHED_MAX)(_parse)


def parse_condition(text: str) -> ParsedCondition:
    """Parse one condition, such as ``value > 5 AND tags['k'] = 'v'``. Raises QueryError."""
    tokens = _tokens(text)
    if not tokens:
        raise QueryError("the condition is empty", at=0)
    trees = _run(text, lambda: _DIALECT.parse_into(exp.Condition, text))
    if len(trees) != 1 or trees[0] is None:
        raise QueryError("one condition at a time: nothing may follow ';'", at=0)
    return ParsedCondition(text, tokens, trees[0])


def offset_of(node: exp.Expression) -> int | None:
    """Return the offset of a node, or of the first part that has one."""
    for part in node.walk(bfs=False):
        at = part.meta.get("start")
        if at is not None:
            return int(at)
    return None


def offset_of_call(tokens: Sequence[Token], name: str, before: int | None) -> int | None:
    """Return the offset of a function's name; ``before`` is the offset of something in its brackets."""
    offset = None
    for token, after in pairwise(tokens):
        if after.token_type is not TokenType.L_PAREN or token.text != name:
            continue
        if before is None:
            return int(token.start)
        if token.start < before:
            offset = int(token.start)
    return offset


def offset_of_word(tokens: Sequence[Token], word: str, after: int) -> int | None:
    """Return the offset of a keyword, at or after ``after``."""
    return next((int(token.start) for token in tokens if token.start >= after and token.text.upper() == word), None)


def _tokens(text: str) -> list[Token]:
    if len(text.encode(errors="surrogatepass")) > TEXT_NBYTES_MAX:
        raise QueryError(f"the query is longer than {TEXT_NBYTES_MAX} bytes")
    if (bad := re.search(r"[\x00\ud800-\udfff]", text)) is not None:
        raise QueryError("the query holds a character that is none", at=bad.start())
    try:
        tokens = list(_DIALECT.tokenize(text))
    except TokenError as error:
        raise _query_error_from_token(text, error) from None
    except SqlglotError:
        raise QueryError("the query cannot be read") from None
    if len(tokens) > TOKENS_MAX:
        raise QueryError(f"the query has more than {TOKENS_MAX} words and signs", at=tokens[TOKENS_MAX].start)
    depth = 0
    for token in tokens:
        depth += (token.token_type in _OPEN) - (token.token_type in _CLOSE)
        if depth > DEPTH_MAX:
            raise QueryError(f"brackets are nested more than {DEPTH_MAX} deep", at=token.start)
    return tokens


def _run(text: str, parse: Any) -> list[Any]:
    try:
        result: list[Any] = parse()
        return result
    except ParseError as error:
        raise _query_error_from_parse(text, error) from None
    except RecursionError:
        raise QueryError("the query is nested too deep") from None
    except (SqlglotError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        # The parser is written for people's queries; on some nonsense it stumbles instead of refusing.
        raise QueryError("the query cannot be read") from error


def _query_error_from_token(text: str, error: TokenError) -> QueryError:
    if (match := re.search(r"Missing (\S+) from (\d+):(\d+)", f"{error} {error.__cause__}")) is not None:
        at = _offset(text, int(match[2]), int(match[3]))
        return QueryError(f"this is opened and never closed with {match[1]}", at=at)
    return QueryError("the query holds a sign that VQL does not know, or a quote that is not closed")


def _query_error_from_parse(text: str, error: ParseError) -> QueryError:
    detail = error.errors[0] if error.errors else {}
    description, word = str(detail.get("description") or ""), str(detail.get("highlight") or "")
    at = None
    if isinstance(detail.get("line"), int) and isinstance(detail.get("col"), int):
        at = _offset(text, detail["line"], detail["col"] - max(len(word), 1) + 1)
    if description.startswith("Required keyword"):
        return QueryError(f"something is missing after {word[:40]!r}" if word else "something is missing here", at=at)
    if (wanted := re.fullmatch(r"Expecting (\S{1,3})", description)) is not None:
        return QueryError(f"{wanted[1]!r} is missing here", at=at)
    return QueryError(f"{word[:40]!r} was not expected here" if word else "the query cannot be read", at=at)


def _offset(text: str, line: int, column: int) -> int:
    """Return the offset of a line and a column, both counted from 1."""
    start = 0
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
        if not start:
            return 0
    return min(max(start + column - 1, 0), len(text))


def _item_names(text: str, tokens: Sequence[Token]) -> list[str]:
    names: list[str] = []
    depth, start, end = 0, None, 0
    for token in tokens[1:]:
        depth += (token.token_type in _OPEN) - (token.token_type in _CLOSE)
        ends = depth == 0 and token.token_type in (TokenType.FROM, TokenType.COMMA)
        if ends and start is not None:
            names.append(" ".join(text[start:end].split()))
            start = None
        elif start is None and not ends:
            start = token.start
        end = token.end + 1
        if ends and token.token_type is TokenType.FROM:
            break
    return names
