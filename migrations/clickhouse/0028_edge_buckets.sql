-- The versions of edges_5m that are complete, with the fingerprint of the spans that they were counted from.
CREATE TABLE IF NOT EXISTS edge_buckets
(
    timestamp DateTime64(3, 'UTC'),
    version Int64,
    fingerprint Int64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(timestamp)
ORDER BY timestamp
SETTINGS
    ttl_only_drop_parts = 1,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
