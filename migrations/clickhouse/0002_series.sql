-- Who a series is: its id is a hash of all of this, so rows with one id tell the same. Keys of tags are sorted.
CREATE TABLE IF NOT EXISTS series
(
    series_id UInt64,
    service_name LowCardinality(String),
    environment LowCardinality(String),
    metric_name LowCardinality(String),
    metric_type LowCardinality(String),
    unit LowCardinality(String),
    tags Map(String, String),
    first_seen DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY series_id
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
