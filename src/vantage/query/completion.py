"""What may be written next in a half-written query: names of the language, and names and values that are held."""

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
# A string or a comment may lack its end: the text is being written. Every character matches some branch, and no branch
# can give back what it took, so that the time is linear.
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
    """At most COMPLETIONS_MAX, the likeliest first. Each replaces the characters from ``start`` up to ``end``."""

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
        """Whether the end of a string is still to be written."""
        return self.is_string and re.fullmatch(r"'(?:[^'\\]|\\.|'')*+'", self.text, re.DOTALL) is None

    @property
    def value(self) -> str:
        inner = self.text[1:] if self.is_open else self.text[1:-1]
        return re.sub(r"\\(.)|''", lambda found: found[1] or "'", inner, flags=re.DOTALL)


async def complete(reads: QueryContext, text: str, position: int) -> Completions:
    """What may stand at ``position``, counted in code points and taken for the nearest one within the text. Any text
    gives an answer; raises only what the store raises."""
    position = min(max(position, 0), len(text))
    tokens = _tokens(text[:position])
    last = tokens[-1] if tokens else None
    if last is not None and _in_comment(last, position):
        return Completions(position, position, ())
    if last is not None and last.is_open:
        kind, found = await _complete_names(reads, tokens, text)
        items = (Completion(name, _escaped(name), kind) for name in _matching(found, last.value))
        return Completions(last.start + 1, position, tuple(items))
    word = last.text if last is not None and _WORD.fullmatch(last.text) and _ends(last) == position else ""
    return Completions(position - len(word), position, tuple(_words(tokens[:-1] if word else tokens, word, text)))


def _tokens(text: str) -> list[_Token]:
    return [_Token(found[0], found.start()) for found in _TOKEN.finditer(text)]


def _ends(token: _Token) -> int:
    return token.start + len(token.text)


def _in_comment(token: _Token, position: int) -> bool:
    if token.text.startswith("/*"):
        return not (token.text.endswith("*/") and len(token.text) > 3)
    return token.text.startswith("--") and _ends(token) == position


async def _complete_names(reads: QueryContext, tokens: Sequence[_Token], text: str) -> tuple[str, list[str]]:
    """The kind and the names that the open string may be, those with most samples or spans first."""
    before = [token.text for token in tokens[:-1]]
    is_key = before[-1:] == ["["] and before[-2:-1] != [] and before[-2] in _MAPS
    subject, key = (before[-2], "") if is_key else _compared(tokens[:-1])
    kind = "tag" if is_key else _KINDS.get(subject, "value")
    if subject == "service_name":
        series, spans = await reads.store.list_series(), await reads.store.services_with_spans()
        counted: Iterable[tuple[str, int]] = itertools.chain(
            ((info.series.service, info.samples) for info in series), ((one.service, one.spans) for one in spans)
        )
    elif _is_about_spans(text):
        counted = await _complete_spans(reads, "" if is_key else subject, key, text)
    else:
        found = await _series(reads, text, subject)
        counted = (
            (name, info.samples) for info in found for name in _complete_series(info, subject, key, is_key=is_key)
        )
    # A catalogue may be long: it is gone through in a thread, not on the event loop.
    return kind, await asyncio.to_thread(_ranked, counted)


def _complete_series(info: SeriesInfo, subject: str, key: str, *, is_key: bool) -> Iterable[str]:
    one = info.series
    if subject in _MAPS:
        return (name for name, _ in one.tags) if is_key else (one.tag(key),)
    return {"metric_name": (one.metric,), "environment": (one.environment,)}.get(subject, ())


async def _complete_spans(reads: QueryContext, column: str, key: str, text: str) -> Iterable[tuple[str, int]]:
    """Of the latest spans: the keys of their attributes, without a ``column``; else its values, or those of one
    attribute. What is no column of texts has none."""
    where: list[Expr] = [Compare(">=", Column("timestamp"), Literal(reads.clock.now_ms() - SPANS_AGE_MS))]
    if service := _equal_to(text, "service_name"):
        where.append(equals("service_name", service))
    if not column:
        latest = Select(
            "spans",
            (SelectItem(Column("attributes"), "held"),),
            where=And(tuple(where)),
            order_by=(Order(Column("timestamp"), descending=True),),
            limit=SPANS_READ_MAX,
        )
        table = await reads.select("completions", latest)
        return ((name, 1) for held in table.column("held") for name in held)
    if column not in _MAPS and SPANS.get(column) != "string":
        return ()
    value = TagValue(key) if column in _MAPS else Column(column)
    counts = Select(
        "spans",
        (SelectItem(value, "held"), SelectItem(Call("count"), "spans")),
        where=And(tuple(where)),
        group_by=(value,),
        order_by=(Order(Call("count"), descending=True),),
        limit=SPANS_READ_MAX,
    )
    table = await reads.select("completions", counts)
    return zip(table.column("held"), table.column("spans"), strict=True)


def _is_about_spans(text: str) -> bool:
    return re.search(r"\bFROM\s+spans\b", text, re.IGNORECASE) is not None


async def _series(reads: QueryContext, text: str, subject: str) -> Sequence[SeriesInfo]:
    """Those of the service and the metric that the text names, all when it names none."""
    metric = "" if subject == "metric_name" else _equal_to(text, "metric_name")
    return await reads.store.list_series(service=_equal_to(text, "service_name"), metric=metric)


def _compared(tokens: Sequence[_Token]) -> tuple[str, str]:
    """The column before an operator or an IN list, and the key when it is a map."""
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
    """The first value the text compares a column with, wherever it stands; '' for none."""
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
    """Those that begin as written before those that hold it, whatever the case."""
    wanted = written.lower()
    found = [name for name in names if wanted in name.lower()]
    return sorted(found, key=lambda name: not name.lower().startswith(wanted))[:COMPLETIONS_MAX]


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
        likely = [one for one in keywords if one.label in ("SELECT", "EXPLAIN")]
    elif previous in _BEFORE_EXPRESSIONS:
        likely = [*names, *functions, *keywords]
    else:
        likely = [*keywords, *names, *functions]
    wanted = word.lower()
    return [one for one in likely if one.label.lower().startswith(wanted)][:COMPLETIONS_MAX]
