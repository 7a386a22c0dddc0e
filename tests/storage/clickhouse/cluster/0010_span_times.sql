CREATE TABLE IF NOT EXISTS span_times ON CLUSTER 'main'
(
    trace_id String CODEC(ZSTD(1)),
    service_name LowCardinality(String),
    environment LowCardinality(String),
    start_ns SimpleAggregateFunction(min, Int64) CODEC(Delta, ZSTD(1)),
    last_ns SimpleAggregateFunction(max, Int64) CODEC(Delta, ZSTD(1)),
    month UInt32
)
ENGINE = ReplicatedAggregatingMergeTree
PARTITION BY month
ORDER BY (trace_id, service_name, environment, month)
SETTINGS
    ttl_only_drop_parts = 1,
    replicated_deduplication_window = 100000, replicated_deduplication_window_seconds = 604800,
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS span_times_all ON CLUSTER 'main' AS span_times ENGINE = Distributed('main', currentDatabase(), 'span_times')
