-- How many spans start in each 5 minutes, and a sum of their hashes: when edges have to be counted again.
CREATE TABLE IF NOT EXISTS span_buckets
(
    timestamp DateTime64(3, 'UTC'),
    spans Int64,
    fingerprint Int64
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY timestamp
SETTINGS
    ttl_only_drop_parts = 1,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
