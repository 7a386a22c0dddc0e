"""The form of a rule: its usual fields by kind of condition. What the form does not have stays as it is in the rule."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vantage.core.alert_rule import Severity
from vantage.core.errors import InputError
from vantage.query.timeseries import AGGREGATIONS

TEXT_LENGTH_MAX: Final = 16_384


@dataclass(frozen=True, slots=True)
class Field:
    """A field at ``path`` of the rule's document. ``kind``: ``text``, ``number``, ``list`` (of texts, by commas),
    ``select``, ``area`` or ``check``. ``suggest`` is the list of suggestions of a text. An empty field is left out of
    the document, unless ``required``."""

    path: str
    label: str
    kind: str = "text"
    options: tuple[tuple[str, str], ...] = ()
    hint: str = ""
    placeholder: str = ""
    required: bool = False
    suggest: str = ""
    default: str = ""  # of a select whose first option it is not

    @property
    def name(self) -> str:
        return f"f.{self.path}"


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of rule: ``start`` is its document at first."""

    title: str
    hint: str
    start: Mapping[str, Any]
    fields: tuple[Field, ...]


def _options(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, name) for name in names)


_SERVICE = Field("condition.service", "Service", placeholder="each", suggest="services")
_FIGURES = (("rate", "requests a second"), ("errors", "share of failed requests"), ("p50", "p50 in ms"),
            ("p95", "p95 in ms"), ("p99", "p99 in ms"))  # fmt: skip
_WATCHED = (("rate", "requests"), ("errors", "errors"), ("p95", "p95"), ("metric", "a metric"))
_LIMITS = (
    Field("condition.above", "Fires above", "number", hint="shares are from 0 to 1"),
    Field("condition.below", "or below", "number"),
    Field("condition.recover", "Back at", "number", hint="empty: the limit itself"),
)
_WINDOW = Field("window", "Window", placeholder="5m")

FORMS: Final[Mapping[str, Form]] = {
    "requests": Form(
        "Requests",
        "rate, errors or durations of a service or its endpoints",
        {"condition": {"kind": "threshold", "value": {"of": "requests", "figure": "p95"}, "above": 500.0}},
        (
            Field("condition.value.figure", "Figure", "select", _FIGURES),
            Field("condition.value.service", "Service", placeholder="each", suggest="services"),
            Field("condition.value.by", "For", "select", (("service", "the service"), ("endpoint", "each endpoint"))),
            *_LIMITS,
            _WINDOW,
        ),
    ),
    "metric": Form(
        "A metric",
        "an aggregate of samples, by tags",
        {"condition": {"kind": "threshold", "value": {"of": "metric", "service": "", "metric": ""}, "above": 1.0}},
        (
            Field("condition.value.service", "Service", required=True, suggest="services"),
            Field("condition.value.metric", "Metric", required=True),
            Field("condition.value.agg", "Aggregate", "select", _options(*AGGREGATIONS)),
            Field("condition.value.group_by", "By tags", "list", placeholder="host, region"),
            Field("condition.value.tags", "Only with tags", "list", placeholder="region:eu"),
            Field("condition.value.where", "Only where", hint="a condition in VQL"),
            *_LIMITS,
            _WINDOW,
        ),
    ),
    "vql": Form(
        "A query",
        "rows of a VQL query: the last column is the value",
        {"condition": {"kind": "threshold", "value": {"of": "vql", "query": ""}, "above": 1.0}},
        (
            Field("condition.value.query", "Query", "area", required=True),
            *_LIMITS,
            _WINDOW,
        ),
    ),
    "anomaly": Form(
        "An anomaly",
        "values that are unusual for their series",
        {"condition": {"kind": "anomaly", "figure": "p95"}},
        (
            Field("condition.figure", "Of", "select", _WATCHED),
            _SERVICE,
            Field("condition.metric", "Metric", hint="for a metric alone"),
            Field("condition.score", "Score from", "number", placeholder="1"),
            Field("condition.direction", "Direction", "select", _options("both", "up", "down")),
            Field(
                "condition.mode",
                "Judged by",
                "select",
                (("", "the server"), *_options("sigma", "robust", "seasonal")),
            ),
        ),
    ),
    "forecast": Form(
        "A forecast",
        "a series that will cross a limit",
        {"condition": {"kind": "forecast", "service": "", "figure": "metric", "limit": 90.0}},
        (
            Field("condition.figure", "Of", "select", _WATCHED),
            Field("condition.service", "Service", required=True, suggest="services"),
            Field("condition.metric", "Metric"),
            Field("condition.limit", "Crosses", "number", required=True),
            Field("condition.hours", "Within hours", "number", placeholder="24"),
        ),
    ),
    "no_data": Form(
        "No data",
        "a service, or a metric, that sends nothing any more",
        {"condition": {"kind": "no_data"}, "for": "0s"},
        (
            _SERVICE,
            Field("condition.metric", "Metric", placeholder="any"),
            Field("condition.after", "Nothing for", placeholder="10m"),
        ),
    ),
    "health": Form(
        "Health",
        "the score of a service",
        {"condition": {"kind": "health"}, "window": "15m"},
        (
            _SERVICE,
            Field("condition.below", "Fires below", "number", placeholder="60"),
            Field("condition.recover", "Back at", "number"),
            _WINDOW,
        ),
    ),
    "ratio": Form(
        "A ratio",
        "one value divided by another",
        {
            "condition": {
                "kind": "ratio",
                "part": {"of": "metric", "service": "", "metric": "", "agg": "sum"},
                "total": {"of": "metric", "service": "", "metric": "", "agg": "sum"},
                "above": 0.1,
            }
        },
        (
            *(
                Field(f"condition.{side}.{name}", f"{label}: {name}", kind, options, required=not options)
                for side, label in (("part", "Part"), ("total", "Total"))
                for name, kind, options in (
                    ("service", "text", ()),
                    ("metric", "text", ()),
                    ("agg", "select", _options(*AGGREGATIONS)),
                )
            ),
            *_LIMITS,
            _WINDOW,
        ),
    ),
    "burn_rate": Form(
        "An SLO",
        "an error budget that burns too fast",
        {"condition": {"kind": "burn_rate", "slo": ""}, "for": "0s", "severity": "critical"},
        (
            Field("condition.slo", "SLO", required=True),
            Field("condition.speed", "Speed", "select", (("page", "fast: page"), ("ticket", "slow: ticket"))),
        ),
    ),
    "heartbeat": Form(
        "A heartbeat",
        "a job that did not run",
        {"condition": {"kind": "heartbeat"}, "for": "0s"},
        (Field("condition.name", "Heartbeat", placeholder="any"),),
    ),
    "check": Form(
        "A check",
        "a URL that does not answer as expected",
        {"condition": {"kind": "check"}, "for": "0s"},
        (
            Field("condition.name", "Check", placeholder="any"),
            Field("condition.failures", "Failures in a row", "number", placeholder="2"),
        ),
    ),
}

COMMON: Final = (
    Field("name", "Name", required=True),
    Field("severity", "Severity", "select", _options(*map(str, Severity)), default=str(Severity.WARNING)),
    Field("for", "For", placeholder="2m", hint="it must hold so long"),
    Field("recover_for", "Recovered for", placeholder="5m"),
    Field("samples_min", "Samples, at least", "number", placeholder="1"),
    Field("owner", "Owner"),
    Field("runbook", "Runbook", placeholder="https://"),
    Field("channels", "Channels", "list", placeholder="all"),
    Field("summary", "Sentence", placeholder="{{ service }}: {{ value }}", hint="empty: the usual one"),
    Field("description", "Description"),
    Field("enabled", "Enabled", "check"),
)


def form_of(document: Mapping[str, Any]) -> str:
    """Return the name of the form that shows a rule; '' where only YAML does."""
    condition = document.get("condition")
    if not isinstance(condition, Mapping):
        return ""
    kind = str(condition.get("kind", ""))
    if kind == "threshold":
        value = condition.get("value")
        return str(value.get("of", "")) if isinstance(value, Mapping) and value.get("of") in FORMS else ""
    if kind == "ratio":
        sides = (condition.get("part"), condition.get("total"))
        return kind if all(isinstance(side, Mapping) and side.get("of") == "metric" for side in sides) else ""
    return kind if kind in FORMS else ""


def field_values(form: str, document: Mapping[str, Any]) -> Iterator[tuple[Field, str, bool]]:
    """Yield the fields of a form with their values as texts, and whether each is of the condition."""
    for field in (*FORMS[form].fields, *COMMON):
        yield field, field_text(field, document), field not in COMMON


def field_text(field: Field, document: Mapping[str, Any]) -> str:
    """Return the value of a field in a document, as its text."""
    value = _get(document, field.path)
    if field.kind == "list":
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else ""
    if field.kind == "check":
        return "" if value is False else "on"
    return field.default if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)


def document_of(form: str, base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a rule: ``base`` with the fields of a form that was sent. Raises InputError for what is
    no number."""
    return with_fields((*FORMS[form].fields, *COMMON), base, given)


def with_fields(fields: Iterable[Field], base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with the fields that were sent. Raises InputError for what is no number."""
    document: dict[str, Any] = copy.deepcopy(dict(base))
    for field in fields:
        _set(document, field.path, _value(field, str(given.get(field.name, "")).strip()[:TEXT_LENGTH_MAX]))
    return document


def _value(field: Field, text: str) -> Any:
    """Return what a text stands for; None: the field is left out."""
    if field.kind == "check":
        return None if text else False
    if field.kind == "list":
        return [part.strip() for part in text.split(",") if part.strip()] or None
    if not text:
        return "" if field.required and field.kind != "number" else None
    if field.kind == "number":
        try:
            number = float(text)
        except ValueError as error:
            raise InputError("is no number", field=field.path) from error
        return int(number) if field.path in _INTEGERS and number.is_integer() else number
    return text


_INTEGERS: Final = frozenset(
    {"samples_min", "condition.hours", "condition.failures", "days", "status_from", "status_to"}
)


def _get(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _set(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    inner: Any = document
    for name in parents:
        if not isinstance(inner.get(name), dict):
            inner[name] = {}
        inner = inner[name]
    if value is None:
        inner.pop(last, None)
    else:
        inner[last] = value
