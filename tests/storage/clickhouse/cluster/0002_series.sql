CREATE TABLE IF NOT EXISTS series ON CLUSTER 'main'
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
ENGINE = ReplicatedReplacingMergeTree
ORDER BY series_id
SETTINGS
    replicated_deduplication_window = 100000, replicated_deduplication_window_seconds = 604800,
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS series_all ON CLUSTER 'main' AS series ENGINE = Distributed('main', currentDatabase(), 'series')
