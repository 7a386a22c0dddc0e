"""One metric over time: buckets of a step, one series a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vantage.core.errors import InputError
from vantage.core.sample import Kind
from vantage.core.timerange import TimeRange, auto_step_ms
from vantage.query.reads import Reads
from vantage.storage.ports import SeriesInfo
from vantage.vql.tree import (
    And,
    Arithmetic,
    Call,
    Column,
    Compare,
    Expr,
    Item,
    Literal,
    Order,
    Select,
    TagValue,
    equals,
)

AGGREGATIONS: Final = ("avg", "min", "max", "sum", "count", "rate", "last", "p50", "p75", "p90", "p95", "p99")
BUCKETS_MAX: Final = 11_000
STEP_MS_MAX: Final = 3650 * 86_400_000
GROUPS_MAX: Final = 200
GROUP_KEYS_MAX: Final = 5
_LOOKBACK_MS: Final = 300_000
_VALUE: Final = Column("value")
_TIME: Final = Column("timestamp")
_COLUMNS: Final = frozenset({"environment", "metric_type", "unit"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A question. ``step_ms`` of None: about 300 points. ``tags`` are pairs that must all hold."""

    service: str
    metric: str
    time_range: TimeRange
    agg: str = "avg"
    step_ms: int | None = None
    group_by: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """One series of the answer; ``points[i]`` belongs to the bucket ``start_ms + i * step_ms``, None where empty."""

    tags: dict[str, str]
    points: list[float | None]


@dataclass(frozen=True, slots=True)
class Timeseries:
    """The answer. ``time_range`` is that asked for, in whole steps."""

    asked: Asked
    unit: str
    time_range: TimeRange
    step_ms: int
    groups: list[Group]
    warnings: list[str]


async def timeseries(reads: Reads, asked: Asked) -> Timeseries:
    """Answer. Raises InputError naming the parameter at fault."""
    if asked.agg not in AGGREGATIONS:
        raise InputError(f"is none of {', '.join(AGGREGATIONS)}", field="agg")
    if len(asked.group_by) > GROUP_KEYS_MAX:
        raise InputError(f"names more than {GROUP_KEYS_MAX} keys", field="group_by")
    step_ms = asked.step_ms or auto_step_ms(asked.time_range)
    if step_ms > STEP_MS_MAX:
        raise InputError(f"is longer than {STEP_MS_MAX // 86_400_000} days", field="step")
    aligned = asked.time_range.aligned(step_ms)
    buckets = aligned.length_ms // step_ms
    if buckets > BUCKETS_MAX:
        raise InputError(f"makes {buckets} points, at most {BUCKETS_MAX} are given", field="step")
    warnings: list[str] = []
    kind, unit = _kind_and_unit(
        asked, await reads.store.catalogue(service=asked.service, metric=asked.metric), warnings
    )
    value, lookback_ms = _value(asked.agg, kind, step_ms, warnings)
    keys = tuple(Column(key) if key in _COLUMNS else TagValue(key) for key in asked.group_by)
    bucket = Call("toStartOfInterval", (_TIME, Literal(step_ms)))
    select = Select(
        table="metrics",
        items=(
            *(Item(key, f"key{i}") for i, key in enumerate(keys)),
            Item(bucket, "bucket"),
            Item(value, "value"),
            Item(Call("count"), "samples"),
        ),
        where=And(
            (
                equals("service_name", asked.service),
                equals("metric_name", asked.metric),
                *(Compare("=", Column(key) if key in _COLUMNS else TagValue(key), Literal(v)) for key, v in asked.tags),
                Compare(">=", _TIME, Literal(aligned.start_ms - lookback_ms)),
                Compare("<", _TIME, Literal(asked.time_range.end_ms)),
            )
        ),
        group_by=(*keys, bucket),
        order_by=(Order(bucket),),
    )
    table = await reads.select("timeseries", select, rows_max=BUCKETS_MAX * 20)
    if table.truncated:
        warnings.append("there are more points than can be given: narrow the range or group by fewer tags")
    rows = [(tuple(names), at_ms, found, n) for *names, at_ms, found, n in table.rows() if at_ms >= aligned.start_ms]
    weight: Counter[tuple[str, ...]] = Counter()
    for group, _, _, samples in rows:
        weight[group] += samples
    # Points are laid out for the groups that are given, and no others: there may be a group a row.
    groups: dict[tuple[str, ...], list[float | None]] = {
        group: [None] * buckets for group, _ in weight.most_common(GROUPS_MAX)
    }
    for group, at_ms, found, _ in rows:
        if group in groups:
            groups[group][(at_ms - aligned.start_ms) // step_ms] = found
    if len(groups) < len(weight):
        warnings.append(f"{len(weight)} series match; the {GROUPS_MAX} with the most samples are given")
    return Timeseries(
        asked,
        unit if asked.agg not in ("count", "rate") else ("" if asked.agg == "count" else "1/s"),
        aligned,
        step_ms,
        [Group(dict(zip(asked.group_by, group, strict=True)), groups[group]) for group in sorted(groups)],
        warnings,
    )


def _kind_and_unit(asked: Asked, found: Sequence[SeriesInfo], warnings: list[str]) -> tuple[Kind, str]:
    """Those of most samples; a metric sent with several is worth a warning."""
    if not found:
        warnings.append(f"service {asked.service!r} has sent no metric {asked.metric!r}")
        return Kind.GAUGE, ""
    kinds: Counter[Kind] = Counter()
    units: Counter[str] = Counter()
    for info in found:
        kinds[info.series.kind] += info.samples
        units[info.series.unit] += info.samples
    if len(kinds) > 1:
        warnings.append(f"the metric was sent with several kinds: {', '.join(sorted(kinds))}")
    if len(units) > 1:
        warnings.append(
            f"the metric was sent with several units: {', '.join(unit or 'none' for unit in sorted(units))}"
        )
    return kinds.most_common(1)[0][0], units.most_common(1)[0][0]


def _value(agg: str, kind: Kind, step_ms: int, warnings: list[str]) -> tuple[Expr, int]:
    """The aggregate of one bucket, and how far before the range it must look."""
    if agg == "rate":
        seconds = Literal(step_ms / 1000)
        if kind is Kind.GAUGE:
            raise InputError("a gauge has no rate: use avg, min, max or last", field="agg")
        if kind is Kind.CUMULATIVE:
            return Arithmetic("/", Call("increase"), seconds), max(step_ms, _LOOKBACK_MS)
        total = Call("sum", (_VALUE,)) if kind is Kind.COUNTER else Call("count")
        return Arithmetic("/", total, seconds), 0
    if kind is Kind.CUMULATIVE and agg != "last":
        warnings.append("the metric is a running total: agg=rate gives its growth")
    if agg == "last":
        return Call("argMax", (_VALUE, _TIME)), 0
    if agg.startswith("p"):
        return Call("quantile", (_VALUE,), int(agg[1:]) / 100), 0
    return Call(agg, () if agg == "count" else (_VALUE,)), 0
