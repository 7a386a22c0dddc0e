"""Complete a half-written query with names of the language and with stored names and values."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vantage.query.context import QueryContext
from vantage.storage.ports import SeriesInfo
from vantage.vql.signatures import METRICS, SPANS, TEXT_FUNCTIONS, TEXT_TABLES
from vantage.vql.tree import And, Call, Column, Compare, Expr, Literal, Order, Select, SelectItem, TagValue, equals

COMPLETIONS_MAX: Final = 50
KEYWORDS: Final = (
    "SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "LIMIT", "AND", "OR", "NOT", "IN", "LIKE", "BETWEEN", "AS",
    "ASC", "DESC", "CASE", "WHEN", "THEN", "ELSE", "END", "INTERVAL", "NULL", "EXPLAIN",
)  # fmt: skip
# A string or a comment may lack its end: the text is being written. Every character matches a branch, and no branch
# backtracks, so that the time is linear.
_TOKEN: Final = re.compile(
    r"--[^\n]*|/\*(?:[^*]|\*(?!/))*+(?:\*/)?|'(?:[^'\\]|\\.|'')*+'?|[^\W\d]\w*|\d+(?:\.\d+)?|<=|>=|!=|<>|\S",
    re.DOTALL,
)
_BEFORE_EXPRESSIONS: Final = frozenset(
    {
        *("SELECT", "WHERE", "BY", "AND", "OR", "NOT", "WHEN", "THEN", "ELSE", "CASE", "BETWEEN"),
        *("(", ",", "=", "<", ">", "+", "-", "*", "/", "<=", ">=", "!=", "<>"),
    }
)
_WORD: Final = re.compile(r"[^\W\d]\w*")
_MAPS: Final = ("tags", "attributes")
_KINDS: Final = {"service_name": "service", "metric_name": "metric", "environment": "environment"}
SPANS_AGE_MS: Final = 3_600_000
SPANS_READ_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Completion:
    """``kind`` is column, function, keyword, table, metric, service, environment, tag or value."""

    label: str
    insert: str
    kind: str


@dataclass(frozen=True, slots=True)
class Completions:
    """Up to COMPLETIONS_MAX completions, the likeliest first. Each replaces the text from ``start`` to ``end``."""

    start: int
    end: int
    items: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int

    @property
    def is_string(self) -> bool:
        return self.text.startswith("'")

    @property
    def is_open(self) -> bool:
        """Whether the token is a string without its closing quote."""
        return self.is_string and re.fullmatch(r"'(?:[^'\\]|\\.|'')*+'", self.text, re.DOTALL) is None

    @property
    def value(self) -> str:
        inner = self.text[1:] if self.is_open else self.text[1:-1]
        return re.sub(r"\\(.)|''", lambda match: match[1] or "'", inner, flags=re.DOTALL)


async def complete(context: QueryContext, text: str, position: int) -> Completions:
    """Return what may stand at ``position``, in code points and clamped to the text. Any text is accepted; raises only
    what the store raises."""
    position = min(max(position, 0), len(text))
    tokens = _tokens(text[:position])
    last = tokens[-1] if tokens else None
    if last is not None and _in_comment(last, position):
        return Completions(position, position, ())
    if last is not None and last.is_open:
        kind, names = await _complete_names(context, tokens, text)
        items = (Completion(name, _escaped(name), kind) for name in _matching(names, last.value))
        return Completions(last.start + 1, position, tuple(items))
    word = last.text if last is not None and _WORD.fullmatch(last.text) and _ends(last) == position else ""
    return Completions(position - len(word), position, tuple(_words(tokens[:-1] if word else tokens, word, text)))


def _tokens(text: str) -> list[_Token]:
    return [_Token(match[0], match.start()) for match in _TOKEN.finditer(text)]


def _ends(token: _Token) -> int:
    return token.start + len(token.text)


def _in_comment(token: _Token, position: int) -> bool:
    if token.text.startswith("/*"):
        return not (token.text.endswith("*/") and len(token.text) > 3)
    return token.text.startswith("--") and _ends(token) == position


async def _complete_names(context: QueryContext, tokens: Sequence[_Token], text: str) -> tuple[str, list[str]]:
    """Return the kind and the names that the open string may be, those with most samples or spans first."""
    before = [token.text for token in tokens[:-1]]
    is_key = before[-1:] == ["["] and before[-2:-1] != [] and before[-2] in _MAPS
    subject, key = (before[-2], "") if is_key else _compared(tokens[:-1])
    kind = "tag" if is_key else _KINDS.get(subject, "value")
    if subject == "service_name":
        series, spans = await context.store.list_series(), await context.store.services_with_spans()
        counted: Iterable[tuple[str, int]] = itertools.chain(
            ((info.series.service, info.samples) for info in series), ((stats.service, stats.spans) for stats in spans)
        )
    elif _is_about_spans(text):
        counted = await _complete_spans(context, "" if is_key else subject, key, text)
    else:
        infos = await _series(context, text, subject)
        counted = (
            (name, info.samples) for info in infos for name in _complete_series(info, subject, key, is_key=is_key)
        )
    # A catalogue may be long: rank it in a thread, not on the event loop.
    return kind, await asyncio.to_thread(_ranked, counted)


def _complete_series(info: SeriesInfo, subject: str, key: str, *, is_key: bool) -> Iterable[str]:
    series = info.series
    if subject in _MAPS:
        return (name for name, _ in series.tags) if is_key else (series.tag(key),)
    return {"metric_name": (series.metric,), "environment": (series.environment,)}.get(subject, ())


async def _complete_spans(context: QueryContext, column: str, key: str, text: str) -> Iterable[tuple[str, int]]:
    """Return names in the latest spans, each with its count: attribute keys without a ``column``, else the values of
    the column or of one attribute. Columns that are not strings have none."""
    where: list[Expr] = [Compare(">=", Column("timestamp"), Literal(context.clock.now_ms() - SPANS_AGE_MS))]
    if service := _equal_to(text, "service_name"):
        where.append(equals("service_name", service))
    if not column:
        latest = Select(
            "spans",
            (SelectItem(Column("attributes"), "attributes"),),
            where=And(tuple(where)),
            order_by=(Order(Column("timestamp"), descending=True),),
            limit=SPANS_READ_MAX,
        )
        table = await context.select("completions", latest)
        return ((name, 1) for attributes in table.column("attributes") for name in attributes)
    if column not in _MAPS and SPANS.get(column) != "string":
        return ()
    value = TagValue(key) if column in _MAPS else Column(column)
    counts = Select(
        "spans",
        (SelectItem(value, "name"), SelectItem(Call("count"), "spans")),
        where=And(tuple(where)),
        group_by=(value,),
        order_by=(Order(Call("count"), descending=True),),
        limit=SPANS_READ_MAX,
    )
    table = await context.select("completions", counts)
    return zip(table.column("name"), table.column("spans"), strict=True)


def _is_about_spans(text: str) -> bool:
    return re.search(r"\bFROM\s+spans\b", text, re.IGNORECASE) is not None


async def _series(context: QueryContext, text: str, subject: str) -> Sequence[SeriesInfo]:
    """Return the series of the service and the metric in the text; all when it names neither."""
    metric = "" if subject == "metric_name" else _equal_to(text, "metric_name")
    return await context.store.list_series(service=_equal_to(text, "service_name"), metric=metric)


def _compared(tokens: Sequence[_Token]) -> tuple[str, str]:
    """Return the column before an operator or an IN list, and the key when it is a map."""
    at = len(tokens) - 1
    while at >= 0 and (tokens[at].text in ("(", ",") or tokens[at].is_string):
        at -= 1
    if at < 1 or tokens[at].text.upper() not in ("=", "!", "!=", "<>", "LIKE", "IN"):
        return "", ""
    at -= 1
    if tokens[at].text.upper() == "NOT" and at:
        at -= 1
    if tokens[at].text == "]" and at >= 3 and tokens[at - 1].is_string:
        return tokens[at - 3].text, tokens[at - 1].value
    return tokens[at].text, ""


def _equal_to(text: str, column: str) -> str:
    """Return the first value that the text compares a column with, anywhere in the text; '' for none."""
    tokens = _tokens(text)
    for name, operator, value in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if name.text == column and operator.text == "=" and value.is_string and not value.is_open:
            return value.value
    return ""


def _ranked(counted: Iterable[tuple[str, int]]) -> list[str]:
    weights: Counter[str] = Counter()
    for name, weight in counted:
        weights[name] += weight
    return sorted((name for name in weights if name), key=lambda name: (-weights[name], name))


def _matching(names: Iterable[str], written: str) -> list[str]:
    """Return the names that contain the text, those that start with it first; ignore the case."""
    pattern = written.lower()
    matches = [name for name in names if pattern in name.lower()]
    return sorted(matches, key=lambda name: not name.lower().startswith(pattern))[:COMPLETIONS_MAX]


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("'", "\\'")


def _words(before: Sequence[_Token], word: str, text: str) -> list[Completion]:
    previous = before[-1].text.upper() if before else ""
    columns = SPANS if _is_about_spans(text) else METRICS
    tables = [Completion(name, name, "table") for name in TEXT_TABLES]
    names = [Completion(name, name, "column") for name in columns]
    functions = [Completion(name, f"{name}(", "function") for name in TEXT_FUNCTIONS]
    keywords = [Completion(name, name, "keyword") for name in KEYWORDS]
    if previous == "FROM":
        likely = tables
    elif not previous:
        likely = [item for item in keywords if item.label in ("SELECT", "EXPLAIN")]
    elif previous in _BEFORE_EXPRESSIONS:
        likely = [*names, *functions, *keywords]
    else:
        likely = [*keywords, *names, *functions]
    prefix = word.lower()
    return [item for item in likely if item.label.lower().startswith(prefix)][:COMPLETIONS_MAX]
