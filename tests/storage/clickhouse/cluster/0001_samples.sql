CREATE TABLE IF NOT EXISTS samples ON CLUSTER 'main'
(
    service_name LowCardinality(String),
    environment LowCardinality(String),
    metric_name LowCardinality(String),
    metric_type LowCardinality(String),
    unit LowCardinality(String),
    series_id UInt64 CODEC(ZSTD(1)),
    timestamp DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    value Float64 CODEC(ZSTD(1)),
    trace_id String CODEC(ZSTD(1)),
    span_id String CODEC(ZSTD(1)),
    INDEX trace_id_of trace_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplicatedMergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (service_name, metric_name, series_id, timestamp)
SETTINGS
    ttl_only_drop_parts = 1,
    replicated_deduplication_window = 100000, replicated_deduplication_window_seconds = 604800,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    ratio_of_defaults_for_sparse_serialization = 0.9;

CREATE TABLE IF NOT EXISTS samples_all ON CLUSTER 'main' AS samples ENGINE = Distributed('main', currentDatabase(), 'samples')
