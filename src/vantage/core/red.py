"""Rollups of requests, errors and durations (RED), for services and their endpoints, by the conventions of ``semconv``.

Samples and server spans are summed up once, over minutes, when they are sealed or first read; wider buckets are sums
of narrower ones. Rows are ``Partials``: those of one key and bucket add up, so late data is further rows. A row's
``count`` is of samples or spans, its ``sum`` of their values (requests, or milliseconds), and of durations it has a
sketch.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from vantage.core import semconv
from vantage.core.arrays import F64, I64, U32, Mask
from vantage.core.dict_column import DictColumn, TextColumn
from vantage.core.rollup import FIVE_MINUTES_MS, NO_PARTIALS, Partials, Sketches
from vantage.core.sample import OVERFLOW, TAG_VERSION
from vantage.core.sample_columns import SampleColumns
from vantage.core.series import Series
from vantage.core.sketch import sketch_keys
from vantage.core.span import SpanKind, SpanStatus
from vantage.core.span_table import SpanTable

MINUTE_MS: Final = 60_000
RedSource = Literal["requests", "durations", "spans", "samples"]
Outcome = Literal["", "ok", "error"]
RedLevel = Literal["service", "endpoint"]
ENDPOINTS_MAX: Final = 1000  # of a service; those beyond are one, named OVERFLOW
METRIC_OF: Final = {"requests": semconv.REQUESTS, "durations": semconv.DURATION}  # the metric of a source
# For how many days rows of a level and width are kept; others as long as rollups are.
KEPT_DAYS: Final[dict[tuple[RedLevel, int], int]] = {
    ("service", MINUTE_MS): 2,
    ("service", FIVE_MINUTES_MS): 60,
    ("endpoint", FIVE_MINUTES_MS): 2,
}
KEPT_MS: Final = {row: days * 86_400_000 for row, days in KEPT_DAYS.items()}
NONE: Final = -1
_UNKNOWN: Final = -2
KEY_BITS: Final = 18  # keys of sketches lie within +-77 300
KEY_SHIFT: Final = 1 << 17
CELLS_MAX: Final = 2 << 20  # of a dense array, 16 MiB


class RedKey(NamedTuple):
    """What a row is about. ``outcome`` is '' where nothing says whether requests failed; method and route are '' for
    all endpoints together."""

    source: RedSource
    service: str
    environment: str
    version: str
    outcome: Outcome
    method: str = ""
    route: str = ""


class RedKeys:
    """Numbers for keys, which never change while the process runs. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: dict[RedKey, int] = {}
        self._endpoints: dict[str, set[tuple[str, str]]] = {}  # by service
        self._service_codes = np.zeros(0, np.int64)
        self.keys: list[RedKey] = []

    def __len__(self) -> int:
        return len(self.keys)

    def code(self, key: RedKey) -> int:
        """Return the number of a key."""
        with self._lock:
            return self._code(key)

    def _code(self, key: RedKey) -> int:
        code = self._codes.get(key)
        if code is not None:
            return code
        if key.route:
            endpoints, endpoint = self._endpoints.setdefault(key.service, set()), (key.method, key.route)
            if len(endpoints) >= ENDPOINTS_MAX and key.route != OVERFLOW and endpoint not in endpoints:
                return self._code(key._replace(method="", route=OVERFLOW))
            endpoints.add(endpoint)
        code = self._codes[key] = len(self.keys)
        self.keys.append(key)
        return code

    def service_codes(self) -> I64:
        """Return by code the code of the same key without its endpoint."""
        with self._lock:
            for code in range(len(self._service_codes), len(self.keys)):
                self._code(self.keys[code]._replace(method="", route=""))
            known = self._service_codes
            codes = [self._codes[key._replace(method="", route="")] for key in self.keys[len(known) :]]
            self._service_codes = np.concatenate([known, np.array(codes, np.int64)])
            return self._service_codes


def key_of_series(series: Series) -> tuple[RedKey, float]:
    """Return the key of a series, and the factor that makes its values milliseconds."""
    version = series.tag(TAG_VERSION)
    if not (of_durations := semconv.is_durations(series)) and not semconv.is_requests(series):
        return RedKey("samples", series.service, series.environment, version, ""), 1.0
    outcome: Outcome = "error" if semconv.is_error(series) else "ok" if semconv.tells_errors(series) else ""
    route = semconv.first_tag(series, semconv.ROUTE_TAGS)
    method = semconv.first_tag(series, semconv.METHOD_TAGS) if route else ""
    key = RedKey(
        "durations" if of_durations else "requests",
        series.service,
        series.environment,
        version,
        outcome,
        method,
        route,
    )
    return key, semconv.MS_PER_UNIT.get(series.unit, 1.0) if of_durations else 1.0


class RedSlots:
    """The key of each series' slot, worked out when it is first needed. Any thread.

    ``series`` is the catalogue's list by slot, which only grows; None where there is no series (yet).
    """

    def __init__(self, keys: RedKeys, series: Sequence[Series | None]) -> None:
        self.keys = keys
        self._series = series
        self._lock = threading.Lock()
        self._codes = np.zeros(0, np.int64)
        self._factors = np.zeros(0, np.float64)

    def of(self, slot: I64 | U32) -> tuple[I64, F64]:
        """Return code and factor of each slot; the code of a slot without a series is negative."""
        if not len(slot):
            return np.empty(0, np.int64), np.empty(0, np.float64)
        with self._lock:
            if (size := int(slot.max()) + 1) > len(self._codes):
                more = max(size - len(self._codes), len(self._codes) // 2, 64)
                self._codes = np.concatenate([self._codes, np.full(more, _UNKNOWN)])
                self._factors = np.concatenate([self._factors, np.ones(more)])
            codes = self._codes[slot]
            if (unknown := codes == _UNKNOWN).any():
                self._learn(np.unique(slot[unknown]).tolist())
                codes = self._codes[slot]
            return codes, self._factors[slot]

    def _learn(self, slots: Sequence[int]) -> None:
        for slot in slots:
            series = self._series[slot] if slot < len(self._series) else None
            if series is not None:
                key, self._factors[slot] = key_of_series(series)
                self._codes[slot] = self.keys.code(key)

    def owners(self, slot: I64) -> tuple[I64, list[tuple[str, str, str]]]:
        """Return for each slot, which must have a series, a number of its service, environment and version, and these
        by number."""
        codes, _ = self.of(slot)
        known, index = np.unique(codes, return_inverse=True)
        numbers: dict[tuple[str, str, str], int] = {}
        number_of = [
            numbers.setdefault((key.service, key.environment, key.version), len(numbers))
            for key in (self.keys.keys[code] for code in known.tolist())
        ]
        return np.array(number_of, np.int64)[index], list(numbers)


def red_of_samples(samples: SampleColumns, slots: RedSlots) -> Partials:
    """Sum samples up over minutes, by endpoint."""
    codes, factors = slots.of(samples.slot)
    rows = np.flatnonzero(codes >= 0)
    codes, time_ms, value = codes[rows], samples.time_ms[rows], samples.value[rows] * factors[rows]
    keys = slots.keys.keys
    has_sketch = np.fromiter((keys[code].source == "durations" for code in range(len(keys))), np.bool_, len(keys))
    return _rolled(codes, time_ms, value, has_sketch[codes])


def red_of_spans(spans: SpanTable, keys: RedKeys) -> Partials:
    """Sum server spans up over minutes, by endpoint."""
    rows = np.flatnonzero(spans.kind.mask(lambda kind: kind == SpanKind.SERVER))
    if not rows.size:
        return NO_PARTIALS
    table = spans.take(rows)
    method, route = _first_of(table, semconv.METHOD_ATTRIBUTES), _first_of(table, semconv.ROUTE_ATTRIBUTES)
    columns = (table.service_name, table.environment, table.service_version, table.status, method, route, table.name)
    codes = np.stack([column.codes for column in columns])
    distinct, index = np.unique(codes, axis=1, return_inverse=True)
    known = [
        keys.code(_span_key(*(column.values[code] for column, code in zip(columns, combination, strict=True))))
        for combination in distinct.T.tolist()
    ]
    of_row = np.array(known, np.int64)[index.reshape(-1)]
    return _rolled(of_row, table.start_ms, table.duration_ns / 1e6, np.ones(len(table), np.bool_))


def _span_key(service: str, environment: str, version: str, status: str, method: str, route: str, name: str) -> RedKey:
    outcome: Outcome = "error" if status == SpanStatus.ERROR else "ok"
    route = route or name
    # An operation is often named after method and route, as in "GET /users".
    route = (route.removeprefix(f"{method} ") if method else route) or name or OVERFLOW
    return RedKey("spans", service, environment, version, outcome, method, route)


def _first_of(table: SpanTable, attributes: Sequence[str]) -> TextColumn:
    """Return the first of the attributes that each span has, '' for none."""
    names: list[str] = [""]
    codes = np.zeros(len(table), np.int64)
    for key in attributes:
        column = table.attribute(key)
        given = (codes == 0) & column.mask(bool)
        codes[given] = column.codes[given] + len(names)
        names.extend(column.values)
    return DictColumn(codes, tuple(names))


def _rolled(code: I64, time_ms: I64, value: F64, has_sketch: Mask) -> Partials:
    """Sum values up by code and minute; of those that ``has_sketch`` selects, sketch them too."""
    if not len(code):
        return NO_PARTIALS
    minute = time_ms // MINUTE_MS
    group, first = numbered(code, minute)
    count = np.bincount(group, minlength=len(first))
    with np.errstate(over="ignore", invalid="ignore"):
        total = bincount(group, value, len(first))
    low, high = np.full(len(first), np.inf), np.full(len(first), -np.inf)
    np.minimum.at(low, group, value)
    np.maximum.at(high, group, value)
    rows = np.flatnonzero(has_sketch)
    cells = group[rows] << KEY_BITS | (sketch_keys(value[rows]).astype(np.int64) + KEY_SHIFT)
    sketches = summed_cells(cells, np.ones(len(rows), np.int64))
    slot = code[first].astype(np.uint32)
    return Partials(slot, minute[first] * MINUTE_MS, count, total, low, high, sketches)


def bincount(number: I64, values: F64, size: int) -> F64:
    """Return the sum of the values of each number."""
    sums: F64 = np.bincount(number, values, size).astype(np.float64, copy=False)
    return sums


def numbered(code: I64, bucket: I64) -> tuple[I64, I64]:
    """Return for each row the number of its code and bucket, in their order, and one row of each number."""
    low = int(bucket.min())
    width = int(bucket.max()) - low + 1
    combined = code * width + (bucket - low)
    size = (int(code.max()) + 1) * width
    if size <= CELLS_MAX:  # without a sort
        row_of = np.full(size, NONE)
        row_of[combined] = np.arange(len(combined))
        present = np.flatnonzero(row_of != NONE)
        number_of = np.zeros(size, np.int64)
        number_of[present] = np.arange(len(present))
        return number_of[combined], row_of[present]
    _, first, group = np.unique(combined, return_index=True, return_inverse=True)
    return group, first


def summed_cells(cells: I64, counts: I64) -> Sketches:
    """Return the sketches of cells, each a row and a sketch key in one number, which may repeat."""
    if not len(cells):
        return Sketches(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int64))
    if (counts == 1).all():
        cells = np.sort(cells)
        first = np.flatnonzero(np.append(True, cells[1:] != cells[:-1]))
        totals = np.diff(np.append(first, len(cells)))
        cells = cells[first]
    else:
        order = np.argsort(cells, kind="stable")
        cells = cells[order]
        first = np.flatnonzero(np.append(True, cells[1:] != cells[:-1]))
        totals = np.add.reduceat(counts[order], first)
        cells = cells[first]
    keys = ((cells & ((1 << KEY_BITS) - 1)) - KEY_SHIFT).astype(np.int32)
    return Sketches(cells >> KEY_BITS, keys, totals)


def regroup(partials: Partials, code_of: I64 | None, *, width_ms: int) -> Partials:
    """Sum rows up over wider buckets, and with ``code_of`` (by code, negative: leave it out) under other keys.

    The result is sorted by code, then by time.
    """
    if not len(partials):
        return partials
    code = partials.slot.astype(np.int64)
    if code_of is not None:
        code = code_of[code]
        if (code < 0).any():
            present = np.flatnonzero(code >= 0)
            return regroup(partials.take(present), code_of, width_ms=width_ms)
    bucket = partials.time_ms // width_ms
    group, first = numbered(code, bucket)
    size = len(first)
    with np.errstate(over="ignore", invalid="ignore"):
        total = bincount(group, partials.sum, size)
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, group, partials.min)
    np.maximum.at(high, group, partials.max)
    count = np.zeros(size, np.int64)
    np.add.at(count, group, partials.count)
    sketches = partials.sketches
    cells = group[sketches.row] << KEY_BITS | (sketches.key.astype(np.int64) + KEY_SHIFT)
    return Partials(
        code[first].astype(np.uint32),
        bucket[first] * width_ms,
        count,
        total,
        low,
        high,
        summed_cells(cells, sketches.count),
    )


def by_service(partials: Partials, keys: RedKeys) -> Partials:
    """Sum the rows of endpoints up by service."""
    return regroup(partials, keys.service_codes(), width_ms=MINUTE_MS)


def of_endpoints(partials: Partials, keys: RedKeys, *, width_ms: int) -> Partials:
    """Return the rows that name an endpoint, over wider buckets."""
    service_codes = keys.service_codes()
    codes = np.arange(len(service_codes))
    return regroup(partials, np.where(service_codes == codes, NONE, codes), width_ms=width_ms)
