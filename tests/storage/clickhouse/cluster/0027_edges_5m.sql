CREATE TABLE IF NOT EXISTS edges_5m ON CLUSTER 'main'
(
    timestamp DateTime64(3, 'UTC'),
    caller LowCardinality(String),
    caller_environment LowCardinality(String),
    callee LowCardinality(String),
    callee_environment LowCardinality(String),
    kind LowCardinality(String),
    failed UInt8,
    version Int64,
    calls Int64,
    duration_ns_sum Int64,
    duration_ns_max Int64
)
ENGINE = ReplicatedReplacingMergeTree(version)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (timestamp, caller, caller_environment, callee, callee_environment, kind, failed)
SETTINGS
    ttl_only_drop_parts = 1,
    replicated_deduplication_window = 100000, replicated_deduplication_window_seconds = 604800,
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS edges_5m_all ON CLUSTER 'main' AS edges_5m ENGINE = Distributed('main', currentDatabase(), 'edges_5m')
