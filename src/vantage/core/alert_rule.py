"""Alert rules as people write them: in YAML files, in the API, in the database. Durations are texts such as ``5m``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from vantage.core.errors import InputError
from vantage.core.sample import text_problem
from vantage.core.timerange import parse_duration_ms

VERSION: Final = 1  # of the documents that rules are exported to
NAME_LENGTH_MAX: Final = 100
TEXT_LENGTH_MAX: Final = 2000
QUERY_LENGTH_MAX: Final = 16_384
ITEMS_MAX: Final = 20
DAY_MS: Final = 86_400_000
RESERVED_NAMES: Final = frozenset({"new", "preview", "backtest", "apply", "export", "save", "remove"})  # below /rules/
Aggregation = Literal["avg", "min", "max", "sum", "count", "rate", "last", "p50", "p75", "p90", "p95", "p99"]
RequestFigure = Literal["rate", "errors", "p50", "p95", "p99"]
WatchedFigure = Literal["rate", "errors", "p95", "metric"]


class Severity(StrEnum):
    """How much a person is disturbed: ``critical`` now, ``warning`` today, ``info`` when they look."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a document consists of: unknown fields are refused, defaults are omitted."""


class MetricValue(_Struct, frozen=True, tag="metric", tag_field="of"):
    """An aggregate of a metric over the rule's window: one value for each combination of the tags in ``group_by``, of
    the samples that have all of ``tags`` (``name:value``) and meet ``where`` (a condition in VQL)."""

    service: str
    metric: str
    agg: Aggregation = "avg"
    group_by: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    where: str = ""


class RequestValue(_Struct, frozen=True, tag="requests", tag_field="of"):
    """A figure of requests over the window: requests a second, the share of failed ones (0 to 1), or a quantile of
    their duration in ms; of one service or of each (''), for the service or each of its endpoints."""

    figure: RequestFigure
    service: str = ""
    by: Literal["service", "endpoint"] = "service"


class VqlValue(_Struct, frozen=True, tag="vql", tag_field="of"):
    """The rows of a VQL query over the window: the last column is the value, those before it name the entity."""

    query: str


Value = MetricValue | RequestValue | VqlValue


class Threshold(_Struct, frozen=True, tag="threshold", tag_field="kind"):
    """The value is above or below a limit. It has recovered when it is back beyond ``recover``, by default the limit
    itself."""

    value: Value
    above: float | None = None
    below: float | None = None
    recover: float | None = None


class Ratio(_Struct, frozen=True, tag="ratio", tag_field="kind"):
    """``part`` divided by ``total`` is above or below a limit. Values belong together by their entity; a total
    without an entity serves all parts."""

    part: Value
    total: Value
    above: float | None = None
    below: float | None = None
    recover: float | None = None


class AnomalyCondition(_Struct, frozen=True, tag="anomaly", tag_field="kind"):
    """Values are unusual for their series, with a score of ``score`` at least. ``mode`` '' is the server's own, which
    judges as data arrives; another one is computed from 5-minute buckets of 14 days when the rule is evaluated.
    ``change`` is the least distance from what is expected, as a share of it; ``errors`` the least share of failed
    requests, so that what is unusual and harmless is quiet."""

    figure: WatchedFigure
    service: str = ""
    metric: str = ""
    mode: Literal["", "sigma", "robust", "seasonal"] = ""
    score: float = 1.0
    direction: Literal["both", "up", "down"] = "both"
    change: float = 0.0
    errors: float = 0.0


class ForecastCondition(_Struct, frozen=True, tag="forecast", tag_field="kind"):
    """The series is expected to cross ``limit`` within so many hours. ``sure``: only when the whole interval of 95 %
    does."""

    service: str
    figure: WatchedFigure
    limit: float
    metric: str = ""
    hours: int = 24
    sure: bool = True


class NoDataCondition(_Struct, frozen=True, tag="no_data", tag_field="kind"):
    """A service, or one of its metrics, that has sent data in the last day sends none for ``after``. '' means each
    service."""

    service: str = ""
    metric: str = ""
    after: str = "10m"


class HealthCondition(_Struct, frozen=True, tag="health", tag_field="kind"):
    """The health score of a service, or of each (''), is below a limit."""

    below: float = 60.0
    service: str = ""
    recover: float | None = None


class BurnRateCondition(_Struct, frozen=True, tag="burn_rate", tag_field="kind"):
    """The error budget of an SLO burns too fast: over a long and a short window at once, by the four pairs of windows
    that are usual (``page``: 14.4 times over 1 h and 5 m, 6 times over 6 h and 30 m; ``ticket``: 3 times over 1 d and
    2 h, once over 3 d and 6 h)."""

    slo: str
    speed: Literal["page", "ticket"] = "page"


class HeartbeatCondition(_Struct, frozen=True, tag="heartbeat", tag_field="kind"):
    """A heartbeat, or any (''), is late."""

    name: str = ""


class CheckCondition(_Struct, frozen=True, tag="check", tag_field="kind"):
    """An HTTP check, or any (''), has failed ``failures`` times in a row."""

    name: str = ""
    failures: int = 2


Condition = (
    Threshold
    | Ratio
    | AnomalyCondition
    | ForecastCondition
    | NoDataCondition
    | HealthCondition
    | BurnRateCondition
    | HeartbeatCondition
    | CheckCondition
)
KINDS: Final = tuple(str(kind.__struct_config__.tag) for kind in Condition.__args__)


class Escalation(_Struct, frozen=True):
    """The channels that are notified too when an alert is not acknowledged after a time."""

    after: str
    channels: tuple[str, ...]


class Rule(_Struct, frozen=True):
    """One rule; each entity that its condition yields has an alert of its own.

    The condition must hold ``for`` a time before an alert fires, and must have recovered for ``recover_for`` before it
    is resolved. ``samples_min``: a value of fewer samples neither fires nor resolves. ``channels`` are names, all that
    are enabled when empty. ``summary`` is a template of the alert's sentence, '' for the usual one.
    """

    name: Annotated[str, msgspec.Meta(examples=["checkout is slow"])]
    condition: Condition
    description: str = ""
    window: str = "5m"
    hold: str = msgspec.field(default="2m", name="for")
    recover_for: str = "5m"
    every: str = "15s"
    samples_min: int = 1
    severity: Severity = Severity.WARNING
    owner: str = ""
    runbook: str = ""
    summary: str = ""
    labels: Mapping[str, str] = {}
    channels: tuple[str, ...] = ()
    escalate: tuple[Escalation, ...] = ()
    enabled: bool = True

    @property
    def window_ms(self) -> int:
        return parse_duration_ms(self.window, field="window")

    @property
    def hold_ms(self) -> int:
        return parse_duration_ms(self.hold, field="for")

    @property
    def recover_ms(self) -> int:
        return parse_duration_ms(self.recover_for, field="recover_for")

    @property
    def every_ms(self) -> int:
        return parse_duration_ms(self.every, field="every")


class RuleDocument(_Struct, frozen=True):
    """A file of rules."""

    rules: tuple[Rule, ...]
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class StoredRule:
    """A rule with its history: ``revision`` grows with each change; ``origin`` is ``default`` for those that every
    installation begins with, and ``user``; ``author`` and ``at_ms`` are those of the latest change."""

    rule: Rule
    revision: int
    origin: str
    author: str
    at_ms: int


def checked_rule(rule: Rule) -> Rule:
    """Return a rule whose texts, numbers and durations are within their limits, with its name stripped. What its
    condition names is checked where it is read. Raises InputError that names the field."""
    name = _checked_name(rule.name)
    for field in ("description", "summary", "owner", "runbook"):
        text = getattr(rule, field)
        if text and (problem := text_problem(text, TEXT_LENGTH_MAX)):
            raise InputError(problem, field=field)
    if rule.runbook and not rule.runbook.startswith(("https://", "http://")):
        raise InputError("is no http or https address", field="runbook")
    _between(rule.window, 60_000, 7 * DAY_MS, "window")
    _between(rule.hold, 0, 7 * DAY_MS, "for")
    _between(rule.recover_for, 0, 7 * DAY_MS, "recover_for")
    _between(rule.every, 5000, DAY_MS, "every")
    if not 0 <= rule.samples_min <= 10**9:
        raise InputError("is not between 0 and a thousand million", field="samples_min")
    if len(rule.labels) > ITEMS_MAX or len(rule.channels) > ITEMS_MAX or len(rule.escalate) > ITEMS_MAX:
        raise InputError(f"has more than {ITEMS_MAX} labels, channels or escalations", field="labels")
    for key, text in rule.labels.items():
        if problem := text_problem(key, 63) or (text and text_problem(text, 255)):
            raise InputError(f"{key!r} {problem}", field="labels")
    for step in rule.escalate:
        _between(step.after, 60_000, 7 * DAY_MS, "escalate.after")
        if not step.channels:
            raise InputError("names no channel", field="escalate.channels")
    _check_condition(rule.condition)
    return msgspec.structs.replace(rule, name=name)


def _checked_name(name: str) -> str:
    name = name.strip()
    if problem := "is empty" if not name else text_problem(name, NAME_LENGTH_MAX):
        raise InputError(problem, field="name")
    if "/" in name:
        raise InputError("may not contain a slash", field="name")
    if name in RESERVED_NAMES:
        raise InputError("is an address of its own", field="name")
    return name


def _between(text: str, least_ms: int, most_ms: int, field: str) -> None:
    if not least_ms <= parse_duration_ms(text, field=field) <= most_ms:
        raise InputError(f"is not between {least_ms // 1000}s and {most_ms // 1000}s", field=field)


def _check_condition(condition: Condition) -> None:
    match condition:
        case Threshold():
            _check_limits(condition.above, condition.below, condition.recover)
            _check_value(condition.value, "condition.value")
        case Ratio():
            _check_limits(condition.above, condition.below, condition.recover)
            _check_value(condition.part, "condition.part")
            _check_value(condition.total, "condition.total")
        case AnomalyCondition():
            _check_watched(condition.figure, condition.metric)
            _check_range(condition.score, 1e-6, 1000, "condition.score")
            _check_range(condition.change, 0, 1000, "condition.change")
            _check_range(condition.errors, 0, 1, "condition.errors")
        case ForecastCondition():
            _check_watched(condition.figure, condition.metric)
            _require(condition.service, "condition.service")
            _check_range(condition.hours, 1, 168, "condition.hours")
            _check_number(condition.limit, "condition.limit")
        case NoDataCondition():
            _between(condition.after, 60_000, DAY_MS, "condition.after")
            if condition.metric:
                _require(condition.service, "condition.service")
        case HealthCondition():
            _check_range(condition.below, 1e-6, 100, "condition.below")
            if condition.recover is not None:
                _check_range(condition.recover, condition.below, 100, "condition.recover")
        case BurnRateCondition():
            _require(condition.slo, "condition.slo")
        case CheckCondition():
            _check_range(condition.failures, 1, 100, "condition.failures")
        case HeartbeatCondition():
            pass


def _require(text: str, field: str) -> None:
    if not text.strip():
        raise InputError("is empty", field=field)


def _check_range(number: float, least: float, most: float, field: str) -> None:
    if not least <= number <= most:
        raise InputError(f"is not between {least:g} and {most:g}", field=field)


def _check_limits(above: float | None, below: float | None, recover: float | None) -> None:
    if (above is None) == (below is None):
        raise InputError("give one limit: above or below", field="condition.above")
    limit = above if above is not None else below
    assert limit is not None
    _check_number(limit, "condition.above" if above is not None else "condition.below")
    if recover is not None:
        _check_number(recover, "condition.recover")
        if (above is not None and recover > above) or (below is not None and recover < below):
            raise InputError(
                "contradicts the limit: values beyond it would be firing and recovered", field="condition.recover"
            )


def _check_number(number: float, field: str) -> None:
    if number != number or number in (float("inf"), float("-inf")):
        raise InputError("is not a finite number", field=field)


def _check_value(value: Value, field: str) -> None:
    match value:
        case MetricValue():
            _require(value.service, f"{field}.service")
            _require(value.metric, f"{field}.metric")
            if len(value.group_by) > 5:
                raise InputError("has more than 5 keys", field=f"{field}.group_by")
            if len(value.tags) > ITEMS_MAX:
                raise InputError(f"has more than {ITEMS_MAX} tags", field=f"{field}.tags")
            if len(value.where) > QUERY_LENGTH_MAX:
                raise InputError(f"is longer than {QUERY_LENGTH_MAX} characters", field=f"{field}.where")
        case VqlValue():
            _require(value.query, f"{field}.query")
            if len(value.query) > QUERY_LENGTH_MAX:
                raise InputError(f"is longer than {QUERY_LENGTH_MAX} characters", field=f"{field}.query")
        case RequestValue():
            pass


def _check_watched(figure: WatchedFigure, metric: str) -> None:
    if (figure == "metric") != bool(metric):
        raise InputError("a metric is named with the figure 'metric', and only then", field="condition.metric")
