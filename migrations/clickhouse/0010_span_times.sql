-- When a trace's spans of a service began and ended: where to look for a trace, and which traces are the latest.
CREATE TABLE IF NOT EXISTS span_times
(
    trace_id String CODEC(ZSTD(1)),
    service_name LowCardinality(String),
    environment LowCardinality(String),
    start_ns SimpleAggregateFunction(min, Int64) CODEC(Delta, ZSTD(1)),
    last_ns SimpleAggregateFunction(max, Int64) CODEC(Delta, ZSTD(1)),
    month UInt32
)
ENGINE = AggregatingMergeTree
PARTITION BY month
ORDER BY (trace_id, service_name, environment, month)
SETTINGS
    ttl_only_drop_parts = 1,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
