"""Random VQL over the whole grammar, from one seed. What was used least comes first, so that nothing is left out.

``exact`` expressions have the same bits on every store. Sums, quantiles and the like may differ in their last digits:
they never stand where a last digit decides, as in a comparison, a key or a rounding.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.support.samples import NOW_MS

DAY_MS = 86_400_000
TEXTS = {
    "metrics": ("service_name", "environment", "metric_name", "metric_type", "unit", "trace_id", "span_id"),
    "spans": ("trace_id", "span_id", "parent_span_id", "service_name", "environment", "name", "kind", "status"),
}
NUMBERS = {"metrics": ("value",), "spans": ("duration_ns", "start_ns")}
TAGS = {"metrics": ("n", "ü", "color", "absent"), "spans": ("http.route", "naïve", "absent")}
MAPS = {"metrics": "tags", "spans": "attributes"}
DIRECTIONS = ("ASC", "DESC", "")
LITERALS = (
    "'svc1'",
    "'m2'",
    "'s'",
    "''",
    "'ß'",
    "'ROT'",
    "'grün %_ä'",
    "'it''s'",
    r"'\\'",
    "'gauge'",
    "'op 3'",
    "'/1'",
)
PATTERNS = ("'%'", "'s%'", "'%1'", "'_v%'", "'svc_'", "'%ü%'", "'%%a%_'", r"'%\%%'", r"'%\_%'", "''", "'_'", "'t-%'")
FLOATS = ("0", "1", "-1", "2.5", "1e3", "0.1", "-0.0", "7", "1e-9", "100", "12345.678", "1e300")
FACTORS = ("1", "-2.5", "1e-9", "1e3")
UNITS = ("SECOND", "MINUTE", "HOUR", "DAY", "WEEK")
BUCKETS = ("Second", "Minute", "FiveMinutes", "FifteenMinutes", "Hour", "Day")
QUANTILES = ("0", "0.25", "0.5", "0.9", "0.95", "0.99", "1")


@dataclass(frozen=True)
class Query:
    """``exact[i]`` says whether column ``i`` must be equal bit by bit; ``ordered``: the order of rows is determined."""

    text: str
    exact: tuple[bool, ...]
    ordered: bool


@dataclass
class Grammar:
    """``used`` counts the productions that were taken."""

    seed: int
    used: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.table = "metrics"

    def pick(self, choices: Sequence[str]) -> str:
        return self.random.choice(choices)

    def take(self, **productions: Callable[[], str]) -> str:
        """Half of the time what was used least, else any."""
        names = list(productions)
        if self.random.random() < 0.5:
            least = min(self.used[name] for name in names)
            names = [name for name in names if self.used[name] == least]
        name = self.random.choice(names)
        self.used[name] += 1
        return productions[name]()

    # --- expressions of a row ---

    def number(self, depth: int = 2, *, exact: bool = True) -> str:
        if depth <= 0:
            return self.take(column=lambda: self.pick(NUMBERS[self.table]), literal=lambda: self.pick(FLOATS))
        inner = lambda: self.number(depth - 1, exact=exact)  # noqa: E731
        productions = {
            "column": lambda: self.pick(NUMBERS[self.table]),
            "add": lambda: f"({inner()} + {inner()})",
            "subtract": lambda: f"({inner()} - {inner()})",
            "multiply": lambda: f"{inner()} * {inner()}",
            "divide": lambda: f"({inner()} / {inner()})",
            "negate": lambda: f"-({inner()})",
            "abs": lambda: f"abs({inner()})",
            "floor": lambda: f"floor({self.number(depth - 1)})",
            "ceil": lambda: f"ceil({self.number(depth - 1)})",
            "round": lambda: f"round({self.number(depth - 1)})",
            "round_to": lambda: f"round({self.number(depth - 1)}, {self.random.randint(-3, 3)})",
            "if": lambda: f"if({self.condition(depth - 1)}, {inner()}, {inner()})",
            "case": lambda: self._case(depth, inner),
            "coalesce": lambda: f"coalesce({inner()}, {inner()})",
            "toUnixTimestamp": lambda: f"toUnixTimestamp({self.time(depth - 1)})",
            "difference": lambda: f"({self.time(0)} - {self.time(0)})",
        }
        if not exact:
            productions |= {"log": lambda: f"log({inner()})", "exp": lambda: f"exp({inner()} / 100)"}
        return self.take(**productions)

    def _case(self, depth: int, inner: Callable[[], str]) -> str:
        whens = " ".join(f"WHEN {self.condition(depth - 1)} THEN {inner()}" for _ in range(self.random.randint(1, 2)))
        return self.take(
            case_else=lambda: f"CASE {whens} ELSE {inner()} END",
            case_null=lambda: f"CASE {whens} END",
            case_of=lambda: f"CASE {self.text(0)} WHEN {self.pick(LITERALS)} THEN {inner()} ELSE {inner()} END",
        )

    def text(self, depth: int = 2) -> str:
        tag = lambda: f"{MAPS[self.table]}['{self.pick(TAGS[self.table])}']"  # noqa: E731
        if depth <= 0:
            return self.take(text_column=lambda: self.pick(TEXTS[self.table]), tag=tag)
        inner = lambda: self.text(depth - 1)  # noqa: E731
        return self.take(
            text_column=lambda: self.pick(TEXTS[self.table]),
            tag=tag,
            lower=lambda: f"lower({inner()})",
            upper=lambda: f"upper({inner()})",
            concat=lambda: f"concat({inner()}, '-', {inner()})",
            text_if=lambda: f"if({self.condition(depth - 1)}, {inner()}, {self.pick(LITERALS)})",
            text_case=lambda: self._case(depth, inner),
            text_coalesce=lambda: f"coalesce({inner()}, {inner()}, {self.pick(LITERALS)})",
        )

    def time(self, depth: int = 1) -> str:
        if depth <= 0:
            return "timestamp"
        inner = lambda: self.time(depth - 1)  # noqa: E731
        return self.take(
            timestamp=lambda: "timestamp",
            interval_ago=lambda: f"({inner()} - INTERVAL {self.random.randint(1, 90)} {self.pick(UNITS)})",
            interval_on=lambda: f"({inner()} + INTERVAL {self.random.randint(1, 9)} {self.pick(UNITS)})",
            **{f"toStartOf{name}": lambda name=name: f"toStartOf{name}({inner()})" for name in BUCKETS},
            toStartOfInterval=lambda: (
                f"toStartOfInterval({inner()}, INTERVAL {self.random.randint(1, 9)} {self.pick(UNITS)})"
            ),
            time_if=lambda: f"if({self.condition(0)}, {inner()}, timestamp)",
            now=lambda: f"if({self.condition(0)}, now(), {inner()})",
        )

    def moment(self) -> str:
        at_ms = NOW_MS - self.random.randint(0, 22 * DAY_MS)
        return self.take(
            epoch=lambda: str(at_ms),
            iso=lambda: f"'2026-11-{self.random.randint(1, 18):02d} {self.random.randint(0, 23):02d}:30:00'",
            rfc3339=lambda: f"'2026-11-{self.random.randint(1, 18):02d}T10:00:00+02:00'",
            ago=lambda: f"now() - INTERVAL {self.random.randint(1, 500)} HOUR",
        )

    def condition(self, depth: int = 2) -> str:
        op = lambda: self.pick(("=", "!=", "<", "<=", ">", ">=", "<>"))  # noqa: E731
        number = lambda: self.number(min(1, depth))  # noqa: E731
        text = lambda: self.text(min(1, depth))  # noqa: E731
        listed = lambda of: ", ".join(self.pick(of) for _ in range(self.random.randint(1, 3)))  # noqa: E731
        productions = {
            "compare_numbers": lambda: f"{number()} {op()} {number()}",
            "compare_texts": lambda: (
                f"{text()} {op()} {self.take(with_literal=lambda: self.pick(LITERALS), with_text=text)}"
            ),
            "compare_times": lambda: f"{self.time(depth)} {op()} {self.moment()}",
            "in_texts": lambda: f"{text()} IN ({listed(LITERALS)})",
            "in_numbers": lambda: f"{number()} IN ({listed(FLOATS)})",
            "not_in": lambda: f"{text()} NOT IN ({listed(LITERALS)})",
            "like": lambda: f"{text()} LIKE {self.pick(PATTERNS)}",
            "not_like": lambda: f"{text()} NOT LIKE {self.pick(PATTERNS)}",
            "between": lambda: f"{number()} BETWEEN -5 AND {self.random.randint(0, 200)}",
            "not_between": lambda: f"{number()} NOT BETWEEN {self.random.randint(-9, 5)} AND 50",
            "between_times": lambda: f"{self.time(1)} BETWEEN {self.moment()} AND {self.moment()}",
        }
        if depth > 0:
            inner = lambda: self.condition(depth - 1)  # noqa: E731
            productions |= {
                "and": lambda: f"({inner()} AND {inner()})",
                "or": lambda: f"({inner()} OR {inner()} OR {inner()})",
                "not": lambda: f"NOT ({inner()})",
                "true": lambda: f"(true AND {inner()})",
            }
        return self.take(**productions)

    # --- aggregates ---

    def exact_aggregate(self) -> str:
        number, text, time, condition = (
            lambda: self.number(2), lambda: self.text(1), lambda: self.time(1), lambda: self.condition(1)
        )  # fmt: skip
        return self.take(
            count=lambda: self.pick(("count()", "count(*)")),
            count_of=lambda: f"count({number()})",
            count_text=lambda: f"count({text()})",
            countIf=lambda: f"countIf({condition()})",
            min=lambda: f"min({number()})",
            min_text=lambda: f"min({text()})",
            min_time=lambda: f"min({time()})",
            max=lambda: f"max({number()})",
            max_text=lambda: f"max({text()})",
            max_time=lambda: f"max({time()})",
            any=lambda: f"any({text()})",
            any_number=lambda: f"any({number()})",
            uniq=lambda: f"uniq({number()})",
            uniq_text=lambda: f"uniq({text()})",
            uniq_time=lambda: f"uniq({time()})",
            uniq_map=lambda: f"uniq({MAPS[self.table]})",
            argMax=lambda: f"argMax({number()}, {number()})",
            argMax_text=lambda: f"argMax({text()}, {number()})",
            argMax_time=lambda: f"argMax({number()}, {time()})",
        )

    def inexact_aggregate(self) -> str:
        number, condition = lambda: self.number(2, exact=False), lambda: self.condition(1)
        return self.take(
            sum=lambda: f"sum({number()})",
            sumIf=lambda: f"sumIf({number()}, {condition()})",
            avg=lambda: f"avg({number()})",
            avgIf=lambda: f"avgIf({number()}, {condition()})",
            quantile=lambda: f"quantile({self.pick(QUANTILES)})({number()})",
            median=lambda: f"median({number()})",
            # Of numbers around zero: the digits of a spread that is far below the mean are lost in other ways.
            stddevPop=lambda: f"stddevPop({self.pick(FACTORS)} * {self.pick(NUMBERS[self.table][:1])})",
            ratio=lambda: f"sum({number()}) / count()",
            logarithm=lambda: f"log(1 + abs(sum({number()})))",
            fallback=lambda: f"coalesce(avg({number()}), -1)",
            chosen=lambda: f"if(count() > 3, avg({number()}), max({number()}))",
        )

    # --- statements ---

    def query(self) -> Query:
        self.table = "spans" if self.random.random() < 0.2 else "metrics"
        return self.take_query(
            grouped=lambda: self._grouped(keys=self.random.randint(1, 3)),
            total=lambda: self._grouped(keys=0),
            listed=self._listed,
            several=lambda: self._grouped(keys=1),
        )

    def take_query(self, **productions: Callable[[], Query]) -> Query:
        name = self.random.choice(list(productions))
        self.used[name] += 1
        return productions[name]()

    def _where(self) -> str:
        bounds = self.take(
            since=lambda: f"timestamp >= {self.moment()}",
            within=lambda: f"timestamp >= {self.moment()} AND timestamp < {self.moment()}",
            between_moments=lambda: f"timestamp BETWEEN {self.moment()} AND now()",
            whole=lambda: "timestamp > 0",
            last_hour=lambda: "",
        )
        parts = [part for part in (bounds, self.condition(2) if self.random.random() < 0.6 else "") if part]
        return f" WHERE {' AND '.join(parts)}" if parts else ""

    def _grouped(self, *, keys: int) -> Query:
        named = [self.take(key_text=lambda: self.text(1), key_time=lambda: self.time(2), key_number=self.number)
                 for _ in range(keys)]  # fmt: skip
        items = [f"{key} AS k{index}" for index, key in enumerate(named)]
        exact = [True] * keys
        for index in range(self.random.randint(2, 5)):
            is_exact = self.random.random() < 0.63  # as many as there are kinds
            items.append(f"{self.exact_aggregate() if is_exact else self.inexact_aggregate()} AS a{index}")
            exact.append(is_exact)
        text = f"SELECT {', '.join(items)} FROM {self.table}{self._where()}"
        if keys:
            text += f" GROUP BY {', '.join(self.pick((f'k{index}', str(index + 1))) for index in range(keys))}"
        if self.random.random() < 0.3:
            self.used["having"] += 1
            text += f" HAVING {self._whole_aggregate()} {self.pick(('>', '<=', '!='))} {self.pick(FLOATS)}"
        ordered = bool(keys) and self.random.random() < 0.5
        if ordered:
            self.used["order"] += 1
            directions = [f"k{index} {self.pick(DIRECTIONS)}" for index in range(keys)]
            text += f" ORDER BY {', '.join(directions)}"
            text += f" LIMIT {self.random.randint(0, 50)}" if self.random.random() < 0.5 else ""
        return Query(text, tuple(exact), ordered)

    def _whole_aggregate(self) -> str:
        return self.pick((f"count({self.number(1)})", f"max({self.number(1)})", f"uniq({self.text(1)})", "count()"))

    def _listed(self) -> Query:
        items = [
            self.take(item_number=self.number, item_text=self.text, item_time=lambda: self.time(2),
                      item_map=lambda: MAPS[self.table], item_condition=lambda: f"({self.condition(1)})")
            for _ in range(self.random.randint(1, 4))
        ]  # fmt: skip
        text = f"SELECT {', '.join(items)} FROM {self.table}{self._where()}"
        places = [index + 1 for index, item in enumerate(items) if item != MAPS[self.table]]
        if places and self.random.random() < 0.5:
            self.used["order"] += 1
            text += f" ORDER BY {self.random.choice(places)} {self.pick(('ASC', 'DESC'))}"
        text += f" LIMIT {self.random.randint(0, 200)}"
        return Query(text, (True,) * len(items), ordered=False)
