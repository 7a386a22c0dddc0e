-- The batches that were kept, so that one that is sent again changes nothing.
CREATE TABLE IF NOT EXISTS batch_ids
(
    kept_at DateTime64(3, 'UTC'),
    batch_id String
)
ENGINE = MergeTree
PARTITION BY toStartOfHour(kept_at)
ORDER BY kept_at
SETTINGS
    ttl_only_drop_parts = 1,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
