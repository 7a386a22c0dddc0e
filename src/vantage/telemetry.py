"""Vantage's own metrics, in Prometheus' model: one object per process, passed to everything that counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from vantage.recent_errors import RecentErrors

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Telemetry:
    """Every metric Vantage exposes about itself. ``docs/operations.md`` lists them; a test compares."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.errors = RecentErrors()
        r = self.registry
        self.collector_requests = Counter(
            "vantage_collector_requests", "Requests to the ingest endpoints.", ["endpoint", "status"], registry=r
        )
        self.collector_errors = Counter(
            "vantage_collector_errors", "Ingest requests refused, by reason.", ["reason"], registry=r
        )
        self.publish_duration = Histogram(
            "vantage_collector_kafka_publish_duration_seconds",
            "Time until the sink took responsibility for a batch: the broker, or the journal without one.",
            buckets=_FAST,
            registry=r,
        )
        self.samples_accepted = Counter("vantage_ingest_samples_accepted", "Samples accepted.", registry=r)
        self.spans_accepted = Counter("vantage_ingest_spans_accepted", "Spans accepted.", registry=r)
        self.rejected = Counter(
            "vantage_ingest_rejected", "Samples and spans rejected, by the field at fault.", ["field"], registry=r
        )
        self.ingest_overflow = Counter(
            "vantage_ingest_overflow",
            "Names beyond a limit, recorded as __overflow__: once for each request or new series, by kind of name.",
            ["name"],
            registry=r,
        )
        self.spans_repeated = Counter(
            "vantage_store_spans_repeated", "Spans that were sent again and are stored once.", registry=r
        )
        self.agent_dropped = Counter(
            "vantage_agent_dropped", "What agents report to have dropped before sending.", ["reason"], registry=r
        )
        self.alert_evaluations = Counter(
            "vantage_alert_evaluations",
            "Evaluations of alert rules: done, no_data (what they read could not be read), failed.",
            ["outcome"],
            registry=r,
        )
        self.alert_evaluation = Histogram(
            "vantage_alert_evaluation_seconds",
            "Time of one evaluation of all rules that are due.",
            buckets=_FAST,
            registry=r,
        )
        self.alert_transitions = Counter(
            "vantage_alert_transitions", "Changes of alerts by evaluation, by their new state.", ["state"], registry=r
        )
        self.notices = Counter(
            "vantage_alert_notices",
            "Notices of alerts: sent, retried (an attempt failed), failed (given up), suppressed.",
            ["outcome"],
            registry=r,
        )
        self.lost = Counter("vantage_lost", "Losses inside Vantage, by reason.", ["reason"], registry=r)
        self.write_duration = Histogram(
            "vantage_worker_db_write_duration_seconds", "Time of one write to the store.", buckets=_FAST, registry=r
        )
        self.commit_batches = Histogram(
            "vantage_store_commit_batches",
            "Batches that shared one commit.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=r,
        )
        self.store_expired = Counter("vantage_store_expired_samples", "Samples dropped by retention.", registry=r)
        self.store_expired_spans = Counter("vantage_store_expired_spans", "Spans dropped by retention.", registry=r)
        self.batch_ids_evicted = Counter(
            "vantage_store_batch_ids_evicted", "Batch ids evicted early because there were too many.", registry=r
        )
        self.clickhouse_parts = Gauge(
            "vantage_clickhouse_parts",
            "Active parts of ClickHouse's tables, read once a minute, by table.",
            ["table"],
            registry=r,
        )
        self.kafka_lag = Gauge(
            "vantage_worker_kafka_lag", "Messages waiting in the broker, by partition.", ["partition"], registry=r
        )
        self.dead_letters = Counter(
            "vantage_worker_dead_letters", "Messages that went to the dead letters, by reason.", ["reason"], registry=r
        )
        self.range_rows = Histogram(
            "vantage_worker_batch_rows",
            "Samples and spans that were written together.",
            buckets=(1, 10, 100, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000),
            registry=r,
        )
        self.rebalances = Counter("vantage_worker_rebalances", "Changes of the partitions of this worker.", registry=r)
        self.query_duration = Histogram(
            "vantage_api_query_duration_seconds", "Time of one query.", ["query"], buckets=_FAST, registry=r
        )
        self.cache_hits = Counter("vantage_query_cache_hits", "Answers found in the cache.", registry=r)
        self.cache_misses = Counter("vantage_query_cache_misses", "Answers not found in the cache.", registry=r)
        self.cache_evictions = Counter(
            "vantage_query_cache_evictions", "Answers that left the cache early to make room.", registry=r
        )
        self.cache_bytes = Gauge("vantage_query_cache_bytes", "Memory of the cache of answers, estimated.", registry=r)
        self.http_requests = Counter(
            "vantage_http_requests", "Requests by route template.", ["route", "method", "status"], registry=r
        )
        self.rate_limit_fallbacks = Counter(
            "vantage_rate_limit_fallbacks",
            "Requests whose rate this process counted by itself, as Redis did not answer.",
            registry=r,
        )
        self.connections_ended = Counter(
            "vantage_http_connections_ended",
            "Connections ended for exceeding a limit, by reason.",
            ["reason"],
            registry=r,
        )
        self.websocket_connections = Gauge(
            "vantage_api_websocket_connections", "Open WebSocket connections.", registry=r
        )
        self.anomalies_expired = Counter(
            "vantage_anomalies_expired", "Stored anomalies deleted by age or number.", registry=r
        )
        self.live_dropped = Counter(
            "vantage_live_dropped_updates", "Live updates dropped for slow readers, or for a slow broker.", registry=r
        )
        self._messages = _Messages()
        r.register(self._messages)

    def message_processed(self, count: int = 1) -> None:
        """Count batches written to the store."""
        self._messages.value += count

    def add_gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value is read at each scrape."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def value(self, sample: str) -> float:
        """Return the current value of an unlabelled sample, such as ``…_total`` or ``…_sum``."""
        return self.registry.get_sample_value(sample) or 0.0

    def values(self, sample: str, label: str) -> dict[str, float]:
        """Return the current values of a sample by a label."""
        return {
            item.labels[label]: item.value
            for family in self.registry.collect()
            for item in family.samples
            if item.name == sample
        }

    def exposition(self) -> bytes:
        """Return the metrics in the text format, version 0.0.4."""
        return generate_latest(self.registry)


def merge_expositions(texts: Mapping[int, str]) -> bytes:
    """Return one exposition of those of several processes, each sample with the label ``process``: a count that begins
    at 0 again when its process does would else make the sum fall, which Prometheus takes for a restart of all."""
    families: dict[tuple[str, str], Metric] = {}
    for number, text in texts.items():
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(
                (family.name, family.type), Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                merged.add_sample(sample.name, {**sample.labels, "process": str(number)}, sample.value)
    return generate_latest(_Merged(families.values()))


class _Merged(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Messages(Collector):
    """One count under two names: the usual ``_total``, and the bare name that is documented."""

    def __init__(self) -> None:
        self.value = 0

    def collect(self) -> Iterable[Metric]:
        name, text = "vantage_worker_messages_processed", "Batches written to the store."
        yield CounterMetricFamily(name, text, value=self.value)
        yield GaugeMetricFamily(name, text, value=self.value)
