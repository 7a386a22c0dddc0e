-- How many spans each service, version and instance has in an hour, so that a list of services reads no spans.
CREATE TABLE IF NOT EXISTS span_services
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
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (service_name, environment, service_version, instance, timestamp)
SETTINGS
    ttl_only_drop_parts = 1,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
