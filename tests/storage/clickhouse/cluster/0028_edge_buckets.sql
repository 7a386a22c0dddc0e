CREATE TABLE IF NOT EXISTS edge_buckets ON CLUSTER 'main'
(
    timestamp DateTime64(3, 'UTC'),
    version Int64,
    fingerprint Int64
)
ENGINE = ReplicatedReplacingMergeTree(version)
PARTITION BY toYYYYMM(timestamp)
ORDER BY timestamp
SETTINGS
    ttl_only_drop_parts = 1,
    replicated_deduplication_window = 100000, replicated_deduplication_window_seconds = 604800,
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS edge_buckets_all ON CLUSTER 'main' AS edge_buckets ENGINE = Distributed('main', currentDatabase(), 'edge_buckets')
