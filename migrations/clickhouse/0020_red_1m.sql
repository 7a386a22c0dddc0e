-- Requests, errors and durations of services in minutes, summed up by who inserts. Several rows may tell of one bucket:
-- they add up. A sketch counts the values in each of its buckets: DDSketch, with an error of 1 %.
CREATE TABLE IF NOT EXISTS red_1m
(
    level LowCardinality(String),
    source LowCardinality(String),
    service_name LowCardinality(String),
    environment LowCardinality(String),
    service_version LowCardinality(String),
    outcome LowCardinality(String),
    method LowCardinality(String),
    route LowCardinality(String),
    timestamp DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    count SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    sum SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    min SimpleAggregateFunction(min, Float64) CODEC(ZSTD(1)),
    max SimpleAggregateFunction(max, Float64) CODEC(ZSTD(1)),
    sketch SimpleAggregateFunction(sumMap, Map(Int32, UInt64)) CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(timestamp)
ORDER BY (
    level, toStartOfHour(timestamp), service_name, source, environment, service_version, outcome, method, route, timestamp
)
TTL toDateTime(timestamp) + toIntervalDay(2)
SETTINGS
    ttl_only_drop_parts = 1,
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
