CREATE TABLE IF NOT EXISTS batch_ids ON CLUSTER 'main'
(
    kept_at DateTime64(3, 'UTC'),
    batch_id String
)
ENGINE = ReplicatedMergeTree
PARTITION BY toStartOfHour(kept_at)
ORDER BY kept_at
SETTINGS
    ttl_only_drop_parts = 1,
    replicated_deduplication_window = 100000, replicated_deduplication_window_seconds = 604800,
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS batch_ids_all ON CLUSTER 'main' AS batch_ids ENGINE = Distributed('main', currentDatabase(), 'batch_ids')
