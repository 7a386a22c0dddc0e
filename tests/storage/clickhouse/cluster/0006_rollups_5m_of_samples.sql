CREATE MATERIALIZED VIEW IF NOT EXISTS rollups_5m_of_samples ON CLUSTER 'main' TO rollups_5m AS
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
    max(value) AS max
FROM
(
    SELECT
        *,
        fromUnixTimestamp64Milli(intDiv(toUnixTimestamp64Milli(timestamp), 300000) * 300000, 'UTC') AS bucket
    FROM samples
)
GROUP BY service_name, environment, metric_name, metric_type, unit, series_id, bucket
