CREATE TABLE IF NOT EXISTS span_services ON CLUSTER 'main'
(
    timestamp DateTime64(3, 'UTC'),
    service_name LowCardinality(String),
    environment LowCardinality(String),
    service_version LowCardinality(String),
    instance LowCardinality(String),
    spans SimpleAggregateFunction(sum, Int64),
    first_ns SimpleAggregateFunction(min, Int64),
    last_ns SimpleAggregateFunction(max, Int64)
)
ENGINE = ReplicatedAggregatingMergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (service_name, environment, service_version, instance, timestamp)
SETTINGS
    ttl_only_drop_parts = 1,
    replicated_deduplication_window = 100000, replicated_deduplication_window_seconds = 604800,
    fsync_after_insert = 1,
    fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS span_services_all ON CLUSTER 'main' AS span_services ENGINE = Distributed('main', currentDatabase(), 'span_services')
