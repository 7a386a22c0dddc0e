-- Which service calls which, in 5 minutes by the start of the called span. Of the versions of a bucket the latest in
-- edge_buckets counts.
CREATE TABLE IF NOT EXISTS edges_5m
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
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (timestamp, caller, caller_environment, callee, callee_environment, kind, failed)
SETTINGS
    ttl_only_drop_parts = 1,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
