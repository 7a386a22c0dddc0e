"""What every TelemetryStore promises. Each implementation runs all of it."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.contracts.analysis_contract import AnalysisContract
from tests.support.random_batches import RandomBatches
from tests.support.samples import (
    HOUR_MS,
    NOW_MS,
    MovedClock,
    a_batch,
    a_series,
    a_span,
    count_query,
    last_hours,
    of_service,
)
from vantage.core.batch import Batch, build_batch
from vantage.core.errors import StoreTimeout
from vantage.core.exemplars import encode_exemplars
from vantage.core.red_table import RedGroup, RedQuery
from vantage.core.sample import Kind
from vantage.core.sketch import RELATIVE_ERROR
from vantage.core.span import Span, SpanKind, SpanStatus
from vantage.core.timerange import TIME_MS_MAX, TimeRange
from vantage.storage.ports import RetentionPolicy, Selector, ServiceEdge, SpanFilter, TelemetryStore, TraceFilter
from vantage.vql.check import check
from vantage.vql.tree import And, Call, Column, Compare, Literal, Order, Select, SelectItem, TagValue

ALWAYS = TimeRange(0, TIME_MS_MAX)


def listed_spans() -> list[Span]:
    """Return spans of two services, some of which failed, some in one trace, some alike."""
    chance = np.random.default_rng(5)
    return [
        a_span(
            f"t{number % 25}",
            f"s{number}",
            service=("api", "worker")[int(chance.integers(0, 3)) == 0],
            start_ms=NOW_MS - 100 * int(chance.integers(1, 500)),
            duration_ms=float(chance.integers(1, 30)),
            status=SpanStatus.ERROR if chance.random() < 0.2 else SpanStatus.OK,
        )
        for number in range(120)
    ]


def brute_force(wanted: SpanFilter) -> list[Span]:
    """Return what a list of ``listed_spans`` has."""
    spans = [
        span for span in listed_spans()
        if span.service_name == wanted.service and (span.is_error or not wanted.failed)
        and wanted.time_range.start_ms <= span.start_ms < wanted.time_range.end_ms
    ]  # fmt: skip
    if wanted.order == "latest":
        return sorted(spans, key=lambda span: (-span.start_ns, span.trace_id, span.span_id))[: wanted.limit]
    spans.sort(key=lambda span: (-span.duration_ns, span.trace_id, span.span_id))
    first = {span.trace_id: span for span in reversed(spans)}
    return [span for span in spans if first[span.trace_id] is span][: wanted.limit]


def contents(batches: Iterable[Batch]) -> Counter[Any]:
    """Return every sample and span with all its fields, floats as their bits."""
    result: Counter[Any] = Counter()
    for batch in batches:
        links = {
            position: ids
            for position, *ids in zip(
                batch.exemplars.position.tolist(), batch.exemplars.trace_id, batch.exemplars.span_id, strict=True
            )
        }
        for row, (which, time_ms, value) in enumerate(
            zip(batch.index.tolist(), batch.time_ms.tolist(), batch.value.tolist(), strict=True)
        ):
            bits = struct.pack("<d", value)
            result[(batch.series[which].canonical(), time_ms, bits, *links.get(row, ("", "")))] += 1
        result.update(msgspec.msgpack.encode(span, order="sorted") for span in batch.spans)
    return result


class TelemetryContract(AnalysisContract):
    """Mixed into one class an implementation; fixtures ``store`` and ``clock`` come from there."""

    async def test_a_written_batch_is_seen_by_the_next_query(self, store: TelemetryStore) -> None:
        assert await store.write(a_batch(1.0, 2.0, 4.0)) is True
        table = await store.select(count_query(), deadline_s=5)
        assert list(table.rows()) == [(3, 7.0)]

    async def test_the_time_of_the_newest_data_is_known_until_it_is_deleted(self, store: TelemetryStore) -> None:
        assert store.newest_ms() == 0
        await store.write(a_batch(1.0, at_ms=NOW_MS - 5000))
        assert store.newest_ms() == NOW_MS - 5000
        await store.write(a_batch(1.0, series=a_series(service="late"), at_ms=NOW_MS + 60_000))
        await store.write(a_batch(1.0, at_ms=NOW_MS - 9000))
        assert store.newest_ms() == NOW_MS + 60_000
        await store.write(Batch(spans=(a_span(service="late", start_ms=NOW_MS + 90_000),)))
        assert store.newest_ms() == NOW_MS + 90_000
        await store.delete(Selector(service="late"))
        assert store.newest_ms() == NOW_MS - 5000

    async def test_a_repeated_batch_id_changes_nothing(self, store: TelemetryStore) -> None:
        assert await store.write(a_batch(1.0, batch_id="b1")) is True
        assert await store.write(a_batch(1.0, batch_id="b1")) is False
        assert await store.write(a_batch(5.0, batch_id="b2")) is True
        assert list((await store.select(count_query(), deadline_s=5)).rows()) == [(2, 6.0)]

    async def test_of_many_repeats_at_once_one_is_kept(self, store: TelemetryStore) -> None:
        outcomes = await asyncio.gather(*(store.write(a_batch(1.0, batch_id="same")) for _ in range(20)))
        assert sorted(outcomes) == [False] * 19 + [True]
        assert list((await store.select(count_query(), deadline_s=5)).rows()) == [(1, 1.0)]

    async def test_an_empty_store_answers_with_an_empty_table(self, store: TelemetryStore) -> None:
        table = await store.select(count_query(group_by=(Column("service_name"),)), deadline_s=5)
        assert len(table) == 0
        assert [column.name for column in table.columns] == ["key0", "n", "sum"]
        assert list((await store.select(count_query(), deadline_s=5)).rows()) == [(0, None)]

    async def test_queries_choose_by_tag_and_group_by_it(self, store: TelemetryStore) -> None:
        for value, method in ((1.0, "GET"), (2.0, "POST"), (4.0, "GET")):
            await store.write(a_batch(value, series=a_series(tags={"method": method})))
        await store.write(a_batch(8.0))
        grouped = await store.select(count_query(group_by=(TagValue("method"),)), deadline_s=5)
        assert sorted(grouped.rows()) == [("", 1, 8.0), ("GET", 2, 5.0), ("POST", 1, 2.0)]
        chosen = await store.select(count_query(Compare("=", TagValue("method"), Literal("GET"))), deadline_s=5)
        assert list(chosen.rows()) == [(2, 5.0)]

    async def test_every_finite_float_comes_back_as_it_was(self, store: TelemetryStore) -> None:
        values = [0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, -2.5e-9, 123456789.123456789]
        await store.write(a_batch(*values))
        query = Select(
            "metrics",
            (SelectItem(Column("value"), "value"),),
            where=Compare(">=", Column("timestamp"), Literal(0)),
            order_by=(Order(Column("timestamp")),),
        )
        table = await store.select(check(query, now_ms=NOW_MS), deadline_s=5)
        assert np.array(table.column("value")).tobytes() == np.array(values).tobytes()

    async def test_bounds_are_inclusive_below_and_exclusive_above(self, store: TelemetryStore) -> None:
        await store.write(a_batch(1.0, 2.0, 4.0, at_ms=1000_000))
        query = Select(
            "metrics",
            (SelectItem(Call("sum", (Column("value"),)), "sum"),),
            where=And(
                (
                    Compare(">=", Column("timestamp"), Literal(1000_000)),
                    Compare("<", Column("timestamp"), Literal(1000_002)),
                )
            ),
        )
        assert list((await store.select(check(query, now_ms=NOW_MS), deadline_s=5)).rows()) == [(3.0,)]

    async def test_samples_years_back_are_kept_and_found(self, store: TelemetryStore) -> None:
        await store.write(a_batch(7.0, at_ms=1_000_000_000_000))
        assert list((await store.select(count_query(), deadline_s=5)).rows()) == [(1, 7.0)]

    async def test_a_query_past_its_deadline_is_ended(self, store: TelemetryStore) -> None:
        await store.write(a_batch(1.0))
        with pytest.raises(StoreTimeout):
            await store.select(count_query(), deadline_s=-1)

    async def test_the_catalogue_counts_samples_by_series(self, store: TelemetryStore) -> None:
        await store.write(a_batch(1.0, 2.0, series=a_series(metric="a")))
        await store.write(a_batch(1.0, series=a_series(metric="b", tags={"k": "ü"})))
        await store.write(a_batch(1.0, series=a_series("other")))
        results = {(info.series.metric, info.samples) for info in await store.list_series(service="api")}
        assert results == {("a", 2), ("b", 1)}
        (info,) = await store.list_series(service="api", metric="a")
        assert (info.first_ms, info.last_ms) == (NOW_MS - 1000, NOW_MS - 999)

    async def test_a_trace_holds_its_spans_and_linked_samples(self, store: TelemetryStore) -> None:
        series = a_series()
        links = encode_exemplars(np.array([1], np.uint32), ["t1"], ["s1"])
        await store.write(build_batch([(series, NOW_MS, 1.0), (series, NOW_MS, 2.0)], exemplars=links))
        await store.write(Batch(spans=(a_span(span_id="s2", start_ms=NOW_MS), a_span(start_ms=NOW_MS - 5))))
        trace = await store.trace("t1")
        assert [span.span_id for span in trace.spans] == ["s1", "s2"]
        assert [(sample.value, sample.span_id) for sample in trace.samples] == [(2.0, "s1")]
        assert (await store.trace("unknown")).spans == ()

    async def test_the_samples_of_a_trace_are_in_order_of_time(self, store: TelemetryStore) -> None:
        series = a_series()
        for at_ms in (NOW_MS, NOW_MS - 20, NOW_MS - 10):
            links = encode_exemplars(np.array([0], np.uint32), ["t1"], ["s1"])
            await store.write(build_batch([(series, at_ms, float(NOW_MS - at_ms))], exemplars=links))
        assert [sample.value for sample in (await store.trace("t1")).samples] == [20.0, 10.0, 0.0]

    async def test_traces_are_found_by_each_condition(self, store: TelemetryStore) -> None:
        slow = a_span("slow", start_ms=NOW_MS - 50, duration_ms=900, attributes={"user": "Zoë", "http.route": "/pay"})
        failed = a_span("failed", start_ms=NOW_MS - 40, status=SpanStatus.ERROR, name="POST /pay")
        other = a_span("other", start_ms=NOW_MS - 30, service="worker")
        await store.write(Batch(spans=(slow, failed, other)))

        async def result(**conditions: object) -> list[str]:
            wanted = TraceFilter(last_hours(), **conditions)  # type: ignore[arg-type]
            return [trace.trace_id for trace in await store.traces(wanted)]

        assert await result() == ["other", "failed", "slow"]
        assert await result(service="worker") == ["other"]
        assert await result(status="error") == ["failed"]
        assert await result(min_duration_ns=800_000_000) == ["slow"]
        assert await result(max_duration_ns=800_000_000) == ["other", "failed"]
        assert await result(text="zoë") == ["slow"]
        assert await result(operation="POST /pay") == ["failed"]
        assert await result(attributes=(("user", "Zoë"), ("http.route", "/pay"))) == ["slow"]
        assert await result(attributes=(("user", "Zoë"), ("http.route", "/cart"))) == []
        assert await result(attributes=(("http.route", "Zoë"),)) == []
        assert await result(limit=1) == ["other"]
        assert await result(before=((NOW_MS - 30) * 1_000_000, "other")) == ["failed", "slow"]

    async def test_spans_of_several_traces_are_read_at_once_up_to_a_limit(self, store: TelemetryStore) -> None:
        spans = [a_span(f"t{trace}", f"s{number}") for trace in range(3) for number in range(2)]
        await store.write(Batch(spans=tuple(spans)))
        result = await store.spans_of(["t2", "nothing", "t0"], spans_max=10)
        assert sorted(result, key=lambda span: (span.trace_id, span.span_id)) == [*spans[:2], *spans[4:]]
        assert len(await store.spans_of(["t2", "t0"], spans_max=3)) == 3
        assert list(await store.spans_of(["nothing"], spans_max=3)) == []
        assert list(await store.spans_of([], spans_max=3)) == []

    async def test_a_listed_trace_is_summed_up(self, store: TelemetryStore) -> None:
        root = a_span(start_ms=NOW_MS - 100, duration_ms=50, name="GET /cart")
        child = a_span(span_id="s2", parent="s1", service="db", start_ms=NOW_MS - 90, status=SpanStatus.ERROR)
        await store.write(Batch(spans=(child, root)))
        (trace,) = await store.traces(TraceFilter(last_hours()))
        assert (trace.root_service, trace.root_name, trace.spans, trace.errors) == ("api", "GET /cart", 2, 1)
        assert trace.duration_ns == 50_000_000
        assert trace.services == ("api", "db")

    async def test_the_latest_and_the_slowest_spans_of_a_service_are_listed(self, store: TelemetryStore) -> None:
        await store.write(Batch(spans=tuple(listed_spans())))

        async def listed(**conditions: Any) -> list[str]:
            result = await store.list_spans(SpanFilter(**{"time_range": ALWAYS, "service": "api", **conditions}))
            assert result.is_complete
            return [f"{span.trace_id}/{span.span_id}" for span in result.spans]

        for order in ("latest", "slowest"):
            for failed in (False, True):
                for limit in (1, 3, 100):
                    for time_range in (ALWAYS, TimeRange(NOW_MS - 30_000, NOW_MS - 10_000)):
                        wanted = SpanFilter(time_range, "api", order=order, failed=failed, limit=limit)
                        expected = [f"{span.trace_id}/{span.span_id}" for span in brute_force(wanted)]
                        ids = await listed(order=order, failed=failed, limit=limit, time_range=time_range)
                        assert ids == expected, wanted
        assert await listed(service="nobody") == []
        assert await listed(service="ap") == []

    async def test_a_listed_span_is_complete_and_one_that_was_sent_again_is_one(self, store: TelemetryStore) -> None:
        span = a_span(status=SpanStatus.ERROR, attributes={"exception.type": "ValueError", "e": "\u202e"})
        await store.write(Batch(spans=(span, span)))
        await store.write(Batch(spans=(span,)))
        result = await store.list_spans(SpanFilter(last_hours(), "api", failed=True, limit=2))
        assert result.spans == (span,)
        assert result.is_complete

    async def test_edges_say_who_calls_whom_in_a_range(self, store: TelemetryStore) -> None:
        early, late = NOW_MS - 3_600_000, NOW_MS - 1000
        for trace_id, start_ms, status in (("t1", early, SpanStatus.OK), ("t2", late, SpanStatus.ERROR)):
            called = a_span(trace_id, "b", "a", service="api", start_ms=start_ms, duration_ms=4, status=status)
            await store.write(Batch(spans=(called,)))
            caller = a_span(trace_id, "a", service="web", start_ms=start_ms - 300_000)
            await store.write(Batch(spans=(caller, a_span(trace_id, "c", "b", start_ms=start_ms, service="api"))))
        both = (ServiceEdge("web", "api", "call", 2, 1, 8_000_000, 4_000_000),)
        assert (await store.edges(TimeRange(early, NOW_MS))).edges == both
        latest = (ServiceEdge("web", "api", "call", 1, 1, 4_000_000, 4_000_000),)
        assert (await store.edges(TimeRange(late, NOW_MS))).edges == latest

    async def test_edges_are_those_of_the_buckets_that_the_range_touches(self, store: TelemetryStore) -> None:
        width_ms = 300_000
        first_ms = NOW_MS // width_ms * width_ms - width_ms
        for trace_id, start_ms in (("t1", first_ms), ("t2", first_ms - 1)):
            spans = (a_span(trace_id, "a", service="web", start_ms=start_ms - 1000),
                     a_span(trace_id, "b", "a", service="api", start_ms=start_ms))  # fmt: skip
            await store.write(Batch(spans=spans))
        result = await store.edges(TimeRange(first_ms + 5, first_ms + 6))
        assert result.time_range == TimeRange(first_ms, first_ms + width_ms)
        assert [edge.calls for edge in result.edges] == [1]
        assert (await store.edges(TimeRange(first_ms + width_ms, NOW_MS + width_ms))).edges == ()
        old_ms = NOW_MS - 3 * 24 * HOUR_MS
        long = await store.edges(TimeRange(old_ms + 5, NOW_MS))
        assert long.time_range.start_ms == old_ms // HOUR_MS * HOUR_MS
        assert [edge.calls for edge in long.edges] == [2]

    async def test_a_call_that_is_answered_later_is_no_external_one(self, store: TelemetryStore) -> None:
        caller = a_span(service="web", duration_ms=20, attributes={"peer.service": "api.internal"})
        client = Span(**{name: getattr(caller, name) for name in caller.__struct_fields__} | {"kind": SpanKind.CLIENT})
        await store.write(Batch(spans=(client,)))
        (edge,) = (await store.edges(last_hours())).edges
        assert (edge.callee, edge.kind, edge.calls, edge.duration_ns_max) == ("api.internal", "external", 1, 20_000_000)
        await store.write(Batch(spans=(a_span(span_id="s2", parent="s1", service="api"),)))
        (edge,) = (await store.edges(last_hours())).edges
        assert (edge.callee, edge.kind, edge.calls) == ("api", "call", 1)

    @pytest.mark.parametrize("service", ["web", "api"])
    async def test_edges_of_a_deleted_service_are_deleted_on_both_sides(
        self, store: TelemetryStore, service: str
    ) -> None:
        spans = (a_span(service="web"), a_span(span_id="s2", parent="s1", service="api"),
                 a_span(span_id="s3", parent="s2", service="db"))  # fmt: skip
        other = (a_span("t2", service="db"), a_span("t2", "s2", "s1", service="mail"))
        await store.write(Batch(spans=(*spans, *other)))
        assert len((await store.edges(last_hours())).edges) == 3
        await store.delete(Selector(service=service))
        left = {(edge.caller, edge.callee) for edge in (await store.edges(last_hours())).edges}
        assert left == {("db", "mail")} | ({("api", "db")} if service == "web" else set())

    async def test_a_span_that_is_sent_again_is_one(self, store: TelemetryStore) -> None:
        root = a_span(service="web", duration_ms=50)
        call = a_span(span_id="s2", parent="s1", service="api", duration_ms=9, status=SpanStatus.ERROR)
        same_id = a_span(span_id="s2", parent="s1", service="db", duration_ms=9)  # of the other side of a call
        await store.write(Batch(spans=(root, call, call, same_id)))
        await store.write(Batch(spans=(call, root, same_id)))
        (trace,) = await store.traces(TraceFilter(last_hours()))
        assert (trace.spans, trace.errors) == (3, 1)
        assert len((await store.trace("t1")).spans) == 3
        assert {edge.callee: edge.calls for edge in (await store.edges(last_hours())).edges} == {"api": 1, "db": 1}
        assert sum(stats.spans for stats in await store.services_with_spans()) == 3

    async def test_a_span_that_was_deleted_can_be_sent_again(self, store: TelemetryStore) -> None:
        await store.write(Batch(spans=(a_span(),)))
        await store.delete(Selector(service="api"))
        await store.write(Batch(spans=(a_span(),)))
        assert len((await store.trace("t1")).spans) == 1

    async def test_spans_can_be_queried_like_samples(self, store: TelemetryStore) -> None:
        await store.write(Batch(spans=(a_span(), a_span("t2", service="db", duration_ms=30))))
        query = Select(
            "spans",
            (
                SelectItem(Column("service_name"), "service"),
                SelectItem(Call("max", (Column("duration_ns"),)), "longest"),
            ),
            where=Compare(">=", Column("timestamp"), Literal(0)),
            group_by=(Column("service_name"),),
            order_by=(Order(Column("service_name")),),
        )
        table = await store.select(check(query, now_ms=NOW_MS), deadline_s=5)
        assert list(table.rows()) == [("api", 10_000_000), ("db", 30_000_000)]

    async def test_forgetting_an_environment_leaves_the_others(self, store: TelemetryStore) -> None:
        demo = a_series(environment="demo")
        await store.write(a_batch(1.0, 2.0, series=demo))
        await store.write(a_batch(4.0))
        await store.write(Batch(spans=(a_span(), a_span("t2", "s2"))))
        deleted = await store.delete(Selector(environment="demo"))
        assert (deleted.samples, deleted.spans, deleted.series) == (2, 0, 1)
        assert list((await store.select(count_query(), deadline_s=5)).rows()) == [(1, 4.0)]
        deleted = await store.delete(Selector(service="api"))
        assert (deleted.samples, deleted.spans) == (1, 2)
        assert (await store.trace("t1")).spans == ()
        assert await store.list_series() == []
        await store.write(a_batch(8.0, series=demo))
        assert list((await store.select(count_query(of_service("api")), deadline_s=5)).rows()) == [(1, 8.0)]

    async def test_forgetting_everything_at_once_is_not_offered(self, store: TelemetryStore) -> None:
        with pytest.raises(ValueError, match="name a service"):
            await store.delete(Selector())

    async def test_expiring_without_a_policy_drops_nothing(self, store: TelemetryStore, clock: MovedClock) -> None:
        await store.write(a_batch(1.0))
        assert (await store.expire(RetentionPolicy())).samples == 0
        assert list((await store.select(count_query(), deadline_s=5)).rows()) == [(1, 1.0)]

    async def test_services_that_only_send_spans_are_known(self, store: TelemetryStore) -> None:
        await store.write(Batch(spans=(a_span(), a_span("t2", service_version="2"))))
        result = sorted((item.service, item.service_version, item.spans) for item in await store.services_with_spans())
        assert result == [("api", "", 1), ("api", "2", 1)]

    async def test_services_are_summed_up_from_samples_and_spans(self, store: TelemetryStore) -> None:
        await store.write(a_batch(1.0, 2.0, at_ms=NOW_MS - 9000))
        await store.write(a_batch(3.0, series=a_series("api", "other"), at_ms=NOW_MS - 5000))
        await store.write(a_batch(4.0, series=a_series("api", service_version="2")))
        await store.write(Batch(spans=(a_span(start_ms=NOW_MS - 20_000), a_span("t2", service="spans", instance="i"))))
        result = {(info.service, info.service_version): info for info in await store.services()}
        assert {key: (info.samples, info.spans, info.first_ms) for key, info in result.items()} == {
            ("api", ""): (3, 1, NOW_MS - 20_000),
            ("api", "2"): (1, 0, NOW_MS - 1000),
            ("spans", ""): (0, 1, NOW_MS - 1000),
        }
        assert result["api", ""].last_ms == NOW_MS - 5000
        assert {info.environment for info in result.values()} == {"test"}
        assert [info.service for info in await store.services(service="spans")] == ["spans"]
        await store.delete(Selector(service="api"))
        assert [info.service for info in await store.services()] == ["spans"]

    async def test_rollups_of_requests_tell_what_samples_and_spans_tell(self, store: TelemetryStore) -> None:
        bucket_ms = NOW_MS // 300_000 * 300_000
        names = {"unit": "s", "tags": {"route": "/a", "method": "GET", "status": "200"}}
        durations = a_series("api", "http.request.duration", Kind.HISTOGRAM, **names)
        failed = a_series("api", "http.request.duration", Kind.HISTOGRAM, **{**names, "tags": {"status": "500"}})
        requests = a_series("counted", "http.requests", Kind.COUNTER, tags={"error": "true"})
        await store.write(a_batch(0.01, 0.02, 0.03, series=durations, at_ms=bucket_ms - 300_000))
        await store.write(a_batch(0.04, series=failed, at_ms=bucket_ms))
        await store.write(a_batch(5.0, 2.0, series=requests, at_ms=bucket_ms))
        await store.write(a_batch(1.0, 2.0, series=a_series("quiet"), at_ms=bucket_ms))
        await store.write(Batch(spans=(a_span(service="traced", start_ms=bucket_ms, duration_ms=20),)))
        query = RedQuery(TimeRange(bucket_ms - 600_000, bucket_ms + 300_000), 300_000, quantiles=(0.5,))
        table = await store.red(query, deadline_s=5)
        assert table is not None
        totals = {table.groups[group]: row for row, group in enumerate(table.totals.group.tolist())}
        counts = {(group.source, group.service): float(table.totals.requests[row]) for group, row in totals.items()}
        assert counts == {
            ("durations", "api"): 4, ("requests", "counted"): 7, ("samples", "quiet"): 2, ("spans", "traced"): 1
        }  # fmt: skip
        api = totals[RedGroup("durations", "api")]
        assert (float(table.totals.errors[api]), int(table.totals.tagged[api])) == (1, 4)
        assert table.totals.quantiles_ms[0][api] == pytest.approx(25, rel=RELATIVE_ERROR)
        assert (table.totals.min_ms[api], table.totals.max_ms[api]) == pytest.approx((10, 40))
        assert float(table.totals.errors[totals[RedGroup("requests", "counted")]]) == 7
        number = table.groups.index(RedGroup("durations", "api"))
        of_api = table.buckets.group == number
        assert table.buckets.time_ms[of_api].tolist() == [bucket_ms - 300_000, bucket_ms]
        assert table.buckets.requests[of_api].tolist() == [3, 1]
        endpoints = await store.red(
            RedQuery(TimeRange(bucket_ms - 300_000, bucket_ms + 300_000), 300_000, level="endpoint",
                     services=frozenset({"api"})),
            deadline_s=5,
        )  # fmt: skip
        assert endpoints is not None
        assert [(group.method, group.route) for group in endpoints.groups] == [("GET", "/a")]
        assert endpoints.totals.requests.tolist() == [3]

    async def test_the_growth_of_running_totals_sees_resets(self, store: TelemetryStore) -> None:
        await store.write(a_batch(10.0, 15.0, 3.0, 4.0, series=a_series(tags={"i": "1"})))
        await store.write(a_batch(100.0, 101.0, series=a_series(tags={"i": "2"})))
        query = Select(
            "metrics",
            (SelectItem(Call("increase"), "grown"),),
            where=Compare(">=", Column("timestamp"), Literal(0)),
        )
        table = await store.select(check(query, now_ms=NOW_MS), deadline_s=5)
        assert list(table.rows()) == [(5.0 + 3.0 + 1.0 + 1.0,)]

    async def test_an_export_holds_everything_as_it_was_written(self, store: TelemetryStore) -> None:
        chance = RandomBatches(7)
        batches = [chance.batch() for _ in range(20)]
        for batch in batches:
            await store.write(batch)
        exported = [batch async for batch in store.export(Selector(), ALWAYS)]
        assert contents(exported) == contents(batches)

    async def test_an_export_comes_in_batches_of_bounded_size(self, store: TelemetryStore) -> None:
        await store.write(a_batch(*map(float, range(20_000)), at_ms=NOW_MS - 100_000))
        await store.write(Batch(spans=tuple(a_span(f"t{n}") for n in range(3000))))
        exported = [batch async for batch in store.export(Selector(), ALWAYS)]
        assert max(batch.samples for batch in exported) <= 10_000
        assert max(len(batch.spans) for batch in exported) <= 2000
        assert sum(batch.samples for batch in exported) == 20_000
        assert sum(len(batch.spans) for batch in exported) == 3000

    async def test_an_export_is_of_the_moment_it_began(self, store: TelemetryStore) -> None:
        await store.write(a_batch(1.0))
        batches = store.export(Selector(), ALWAYS)
        first = await anext(batches)
        await store.write(a_batch(2.0))
        await store.write(Batch(spans=(a_span(),)))
        assert contents([first, *[batch async for batch in batches]]) == contents([a_batch(1.0)])

    async def test_an_export_can_be_of_a_service_an_environment_and_a_range(self, store: TelemetryStore) -> None:
        demo = a_series(environment="demo")
        await store.write(a_batch(1.0, 2.0, 4.0, at_ms=NOW_MS - 10))
        await store.write(a_batch(8.0, series=demo))
        await store.write(a_batch(16.0, series=a_series("other")))
        await store.write(Batch(spans=(a_span("t1", start_ms=NOW_MS - 9), a_span("t2", service="other"))))

        async def result(selector: Selector, time_range: TimeRange) -> tuple[list[float], list[str]]:
            batches = [batch async for batch in store.export(selector, time_range)]
            values = sorted(value for batch in batches for value in batch.value.tolist())
            return values, sorted(span.trace_id for batch in batches for span in batch.spans)

        assert await result(Selector(service="api"), ALWAYS) == ([1.0, 2.0, 4.0, 8.0], ["t1"])
        assert await result(Selector(environment="demo"), ALWAYS) == ([8.0], [])
        assert await result(Selector("other", "test"), ALWAYS) == ([16.0], ["t2"])
        assert await result(Selector(), TimeRange(NOW_MS - 9, NOW_MS - 8)) == ([2.0], ["t1"])
        assert await result(Selector(service="nobody"), ALWAYS) == ([], [])

    async def test_an_export_that_is_given_up_can_be_begun_again(self, store: TelemetryStore) -> None:
        await store.write(a_batch(*map(float, range(30_000)), at_ms=NOW_MS - 100_000))
        for _ in range(10):
            async with aclosing(store.export(Selector(), ALWAYS)) as batches:
                assert (await anext(batches)).samples

    async def test_ping_returns_while_the_store_is_open(self, store: TelemetryStore) -> None:
        await store.ping()
