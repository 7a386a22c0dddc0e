CREATE MATERIALIZED VIEW IF NOT EXISTS rollups_1h_of_samples ON CLUSTER 'main' TO rollups_1h AS
SELECT
    service_name,
    environment,
    metric_name,
    metric_type,
    unit,
    series_id,
    bucket AS timestamp,
    count() AS count,
    sum(value) AS sum,
    min(value) AS min,
    max(value) AS max,
    min(at) AS first_time,
    max(at) AS last_time,
    quantileBFloat16StateIf(0.5)(value, metric_type = 'histogram') AS sketch
FROM
(
    SELECT
        *,
        timestamp AS at,
        fromUnixTimestamp64Milli(intDiv(toUnixTimestamp64Milli(timestamp), 3600000) * 3600000, 'UTC') AS bucket
    FROM samples
)
GROUP BY service_name, environment, metric_name, metric_type, unit, series_id, bucket
