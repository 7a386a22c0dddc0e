"""How a change came about: the query of its buckets, and lines of numpy that give its effect and its probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vantage.analysis.change import CORRELATION_MAX, SPREAD_SHARE_MIN
from vantage.core.sample import Kind
from vantage.core.semconv import REQUESTS
from vantage.query.health_explanation import count_of, failed_of, quoted
from vantage.query.what_changed import Change, Item

_MINUTE_MS: Final = 60_000


def change_vql(change: Change) -> str:
    """Return a query of the buckets of both windows and what lies between; '' for a route, which several tags may
    name, and for durations, whose unit the query would need."""
    item, scope = change.item, change.scope
    value = _value(item, scope.step_ms)
    if not value or item.tag == "route":
        return ""
    is_spans = item.metric == "spans"
    conditions = [f"service_name = {quoted(item.service)}"]
    if is_spans:
        conditions.append("kind = 'server'")
    else:
        kind = item.kind or ("counter" if item.metric == REQUESTS else "histogram")
        conditions += [f"metric_name = {quoted(item.metric)}", f"metric_type = {quoted(kind)}"]
        conditions += [f"unit = {quoted(item.unit)}"] if item.what == "metric" else []
    if item.tag == "version":
        conditions.append(f"{'service_version' if is_spans else _tag('service_version')} = {quoted(item.value)}")
    elif item.tag:
        conditions.append(f"{_tag(item.tag)} = {quoted(item.value)}")
    conditions += [f"timestamp >= {scope.before.start_ms}", f"timestamp < {scope.window.end_ms}"]
    all_of = "\n    AND ".join(conditions)
    bucket = f"toStartOfInterval(timestamp, INTERVAL {scope.step_ms // _MINUTE_MS} MINUTE) AS bucket"
    table = "spans" if is_spans else "metrics"
    select = f"SELECT\n    {bucket},\n    {value} AS value\nFROM {table}"
    return f"{select}\nWHERE\n    {all_of}\nGROUP BY bucket\nORDER BY bucket"


def _value(item: Item, step_ms: int) -> str:
    if item.what == "requests":
        return f"{count_of(item.metric)} / {step_ms / 1000:g}"
    if item.what == "errors":
        return f"{failed_of(item.metric)} / {count_of(item.metric)}"
    if item.what == "p95":
        return "quantile(0.95)(duration_ns / 1000000)" if item.metric == "spans" else ""
    return f"sum(value) / {step_ms / 1000:g}" if item.kind == Kind.COUNTER else "avg(value)"


def change_snippet(change: Change) -> str:
    """Return lines of numpy that print the effect and the probability of a change; '' for what came or went, or has
    gaps between its buckets, whose correlation the lines would get wrong."""
    has_gaps = any(value != value for value in (*change.points_before, *change.points_after))
    if change.before is None or change.after is None or has_gaps:
        return ""
    return f"""import numpy as np
from scipy.special import stdtr

before = np.array([{_numbers(change.points_before)}])
after = np.array([{_numbers(change.points_after)}])
delta = np.mean(np.sign(after[:, None] - before[None, :]))  # Cliff's
middles = before.mean(), after.mean()
relative = abs(middles[1] - middles[0]) / (abs(middles[0]) + abs(middles[1]))
effect = abs(delta) * relative

rest = before - before.mean()
size = max(8, len(before))
r = (rest[1:] * rest[:-1]).sum() / max((rest**2).sum(), 1e-300)
r = np.clip((r + 1 / size) / (1 - 4 / size), 0, {CORRELATION_MAX})  # of a bucket before with the next
share = (1 - r) / (1 + r)


def chance(after):
    n, m = len(before), len(after)
    squares = (rest**2).sum() + ((after - after.mean()) ** 2).sum()
    floor = {SPREAD_SHARE_MIN} * max(abs(before.mean()), abs(after.mean()))
    error = np.sqrt(max(squares / (n + m - 2), floor**2) * (1 / n + 1 / m) / share)
    return 2 * stdtr(max((n + m) * share - 2, 1), -abs(after.mean() - before.mean()) / error)


farthest = np.argmax(np.abs(after - before.mean()))
p = max(chance(after), chance(np.delete(after, farthest)))
print(f"{{effect:.4f}} {{p:.4g}}")"""


def _numbers(points: Sequence[float]) -> str:
    return ", ".join(repr(value) for value in points)


def _tag(key: str) -> str:
    return f"tags[{quoted(key)}]"
