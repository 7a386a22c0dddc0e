"""Unit tests of rules: series over time go in, and the alerts that are open at some times must be those expected.

Rules are evaluated by the code of the server, on stores in memory, with a clock that moves by ``evaluate_every``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from vantage.alerting.evaluate import AlertEvaluator
from vantage.alerting.rule_files import RuleFile, RuleFileError, checked_rules
from vantage.core.alert import Alert, State
from vantage.core.alert_rule import VERSION, Rule
from vantage.core.batch import build_batch
from vantage.core.errors import InputError
from vantage.core.sample import Kind
from vantage.core.series import Series, make_series
from vantage.core.timerange import parse_duration_ms, parse_time
from vantage.core.turns import Turns
from vantage.query.catalogue import SELF
from vantage.query.context import QueryContext
from vantage.storage.memory import MemoryStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.telemetry import Telemetry

START: Final = "2026-01-05T00:00:00Z"  # a Monday
VALUES_MAX: Final = 100_000  # of one test
EVALUATIONS_MAX: Final = 20_000  # of one test
_ITEM: Final = re.compile(
    r"(?P<none>_)(?:x(?P<nones>\d{1,6}))?"
    r"|(?P<first>[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?:(?P<step>[-+]\d+(?:\.\d+)?(?:e[-+]?\d+)?))?(?:x(?P<count>\d{1,6}))?"
)


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file consists of."""


class InputSeries(_Struct, frozen=True):
    """A sample every ``interval`` of the test, from its start. ``values``: ``0+10x5 _x3 50`` means 0 and five times 10
    more, three times nothing, then 50; or a list, where null is nothing."""

    service: str
    metric: str
    values: str | tuple[float | None, ...]
    kind: str = "gauge"
    unit: str = ""
    environment: str = ""
    tags: Mapping[str, str] = {}


class ExpectedAlert(_Struct, frozen=True):
    """An alert that is open; ``text`` is a part of its sentence. What is not given is not compared."""

    rule: str = ""
    entity: Mapping[str, str] | None = None
    state: str = "firing"
    severity: str = ""
    value: float | None = None
    text: str = ""


class Expectation(_Struct, frozen=True):
    """The alerts that are open so long after the start: all of them, or those of one rule."""

    at: str
    alerts: tuple[ExpectedAlert, ...]
    rule: str = ""


class RuleTest(_Struct, frozen=True):
    """One test."""

    name: str
    expect: tuple[Expectation, ...]
    input_series: tuple[InputSeries, ...] = ()
    interval: str = "1m"
    evaluate_every: str = "15s"
    start: str = START


class TestDocument(_Struct, frozen=True):
    """A file of tests, with the rules they are of, or the names of files of rules beside it."""

    tests: tuple[RuleTest, ...]
    rules: tuple[Rule, ...] = ()
    rule_files: tuple[str, ...] = ()
    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)] = VERSION


@dataclass(frozen=True, slots=True)
class Outcome:
    """A test that ran; without ``failures`` it passed."""

    name: str
    failures: Sequence[str]


class _Clock:
    """A clock that the test moves."""

    def __init__(self, now_ms: int) -> None:
        self.at_ms = now_ms

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_s(self) -> float:
        return self.at_ms / 1000

    async def sleep(self, seconds: float) -> None:
        self.at_ms += int(seconds * 1000)


def parse_tests(text: str, *, name: str) -> tuple[RuleFile, TestDocument, list[Rule]]:
    """Return a file of tests with the rules that it has itself. Raises RuleFileError."""
    file = RuleFile(text, name=name)
    if not isinstance(file.data, dict):
        raise RuleFileError("is not a document with 'tests'", file=name, line=1)
    document: TestDocument = file.convert(file.data, TestDocument)
    rules = list(checked_rules(file, document.rules))
    for number, test in enumerate(document.tests):
        try:
            _check(test)
        except InputError as error:
            raise file.error(error.reason, f"tests[{number}].{error.field}") from error
    return file, document, rules


async def run_test(test: RuleTest, rules: Sequence[Rule]) -> Outcome:
    """Run one test. Raises InputError for a rule that cannot be stored, and what an expectation names that is not
    there."""
    start_ms, every_ms = _start_ms(test), parse_duration_ms(test.evaluate_every, field="evaluate_every")
    clock = _Clock(start_ms)
    samples = sorted(_samples(test, start_ms), key=lambda row: row[1])
    own = make_series(service=SELF, environment="", metric="process.threads", kind=Kind.GAUGE)
    names = {rule.name for rule in rules}
    failures: list[str] = []
    async with MemoryMetadataStore(clock) as metadata:
        store, telemetry = MemoryStore(clock=clock), Telemetry()
        context = QueryContext(store, metadata, clock, telemetry)
        await metadata.alerts.apply_rules(rules, removed=(), actor="test")
        evaluator = AlertEvaluator(context, metadata, turns=Turns(), default_rules=())
        sent = 0
        ordered = sorted(test.expect, key=lambda item: parse_duration_ms(item.at, field="at"))
        for expected in ordered:
            at_ms = start_ms + parse_duration_ms(expected.at, field="at")
            for named in (expected.rule, *(item.rule for item in expected.alerts)):
                if named and named not in names:
                    raise InputError(f"there is no rule {named!r}", field="expect.rule")
            while clock.at_ms < at_ms:
                clock.at_ms = min(clock.at_ms + every_ms, at_ms)
                due = sent
                while due < len(samples) and samples[due][1] <= clock.at_ms:
                    due += 1
                # A server's own samples arrive all the time: by them it knows what time it is.
                await store.write(build_batch([*samples[sent:due], (own, clock.at_ms, 1.0)]))
                sent = due
                await evaluator.evaluate()
            alerts = await metadata.alerts.alerts(
                states=(State.PENDING, State.FIRING, State.NO_DATA), rule=expected.rule, limit=10_000
            )
            failures += _differences(expected, alerts)
            failures += [
                f"at {expected.at}: rule {item.rule!r} could not be evaluated: {item.problem}"
                for item in await metadata.alerts.evaluations()
                if item.problem and expected.rule in ("", item.rule)
            ]
    return Outcome(test.name, failures)


def _check(test: RuleTest) -> None:
    """Raise InputError for what cannot be run."""
    start_ms = _start_ms(test)
    every_ms = parse_duration_ms(test.evaluate_every, field="evaluate_every")
    if every_ms < 1000:
        raise InputError("must be a second or more", field="evaluate_every")
    if parse_duration_ms(test.interval, field="interval") < 1000:
        raise InputError("must be a second or more", field="interval")
    for number, expected in enumerate(test.expect):
        at_ms = parse_duration_ms(expected.at, field=f"expect[{number}].at")
        if at_ms // every_ms > EVALUATIONS_MAX:
            raise InputError(
                f"makes more than {EVALUATIONS_MAX} evaluations: choose a longer evaluate_every",
                field=f"expect[{number}].at",
            )
        for position, alert in enumerate(expected.alerts):
            if alert.state not in (State.PENDING, State.FIRING, State.NO_DATA):
                raise InputError(
                    "is not one of pending, firing, no data", field=f"expect[{number}].alerts[{position}].state"
                )
    for _ in _samples(test, start_ms):
        pass


def _start_ms(test: RuleTest) -> int:
    return parse_time(test.start, now_ms=0, field="start")


def _samples(test: RuleTest, start_ms: int) -> Iterator[tuple[Series, int, float]]:
    interval_ms = parse_duration_ms(test.interval, field="interval")
    count = 0
    for number, item in enumerate(test.input_series):
        where = f"input_series[{number}]"
        if item.kind not in set(Kind):
            raise InputError(f"is not one of {', '.join(Kind)}", field=f"{where}.kind")
        if not item.service or not item.metric:
            raise InputError("needs a service and a metric", field=where)
        series = make_series(
            service=item.service,
            environment=item.environment,
            metric=item.metric,
            kind=Kind(item.kind),
            unit=item.unit,
            tags=dict(item.tags),
        )
        values = parse_values(item.values, field=f"{where}.values") if isinstance(item.values, str) else item.values
        count += len(values)
        if count > VALUES_MAX:
            raise InputError(f"makes more than {VALUES_MAX} values", field=f"{where}.values")
        for position, value in enumerate(values):
            if value is not None:
                yield series, start_ms + position * interval_ms, float(value)


def parse_values(text: str, *, field: str = "values") -> list[float | None]:
    """Return the values of a notation such as ``0+10x5 _x3 50``. Raises InputError."""
    values: list[float | None] = []
    for item in text.split():
        match = _ITEM.fullmatch(item)
        if match is None:
            raise InputError(f"{item[:40]!r} is not written as 5, 5x3, 0+10x5, 100-5x3, _ or _x3", field=field)
        if match["none"]:
            values += [None] * int(match["nones"] or 1)
        else:
            first, step, more = float(match["first"]), float(match["step"] or 0), int(match["count"] or 0)
            values += [first + step * position for position in range(more + 1)]
        if len(values) > VALUES_MAX:
            raise InputError(f"makes more than {VALUES_MAX} values", field=field)
    return values


def _differences(expected: Expectation, alerts: Sequence[Alert]) -> Iterator[str]:
    """Yield what is not as expected."""
    rest = list(alerts)
    for wanted in expected.alerts:
        fitting = next((alert for alert in rest if _fits(wanted, expected.rule, alert)), None)
        if fitting is None:
            has = "; ".join(map(_described, alerts)) or "no alert"
            yield f"at {expected.at}: expected {_described_wanted(wanted, expected.rule)}, but there is {has}"
        else:
            rest.remove(fitting)
    if len(alerts) - len(rest) == len(expected.alerts):
        for alert in rest:
            yield f"at {expected.at}: nobody expected {_described(alert)}"


def _fits(wanted: ExpectedAlert, rule: str, alert: Alert) -> bool:
    return (
        (wanted.rule or rule) in ("", alert.rule)
        and (wanted.entity is None or dict(wanted.entity) == dict(alert.entity))
        and wanted.state == alert.state
        and wanted.severity in ("", alert.severity)
        and (wanted.value is None or _is_close(wanted.value, alert.value))
        and wanted.text in alert.text
    )


def _is_close(wanted: float, value: float | None) -> bool:
    return value is not None and math.isclose(wanted, value, rel_tol=1e-9)


def _described(alert: Alert) -> str:
    return f"{alert.rule!r} {alert.state} for {_names(alert.entity)}: {alert.text}"


def _described_wanted(wanted: ExpectedAlert, rule: str) -> str:
    parts = [f"{(wanted.rule or rule or 'any rule')!r} {wanted.state}"]
    parts += [f"for {_names(wanted.entity)}"] if wanted.entity is not None else []
    parts += [f"with the value {wanted.value:g}"] if wanted.value is not None else []
    parts += [f"and the text {wanted.text!r}"] if wanted.text else []
    return " ".join(parts)


def _names(entity: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in entity.items()) or "everything"
