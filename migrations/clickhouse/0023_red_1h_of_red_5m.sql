CREATE MATERIALIZED VIEW IF NOT EXISTS red_1h_of_red_5m TO red_1h AS
SELECT
    level,
    source,
    service_name,
    environment,
    service_version,
    outcome,
    method,
    route,
    bucket AS timestamp,
    sum(count) AS count,
    sum(sum) AS sum,
    min(min) AS min,
    max(max) AS max,
    sumMap(sketch) AS sketch
FROM
(
    SELECT
        *,
        fromUnixTimestamp64Milli(intDiv(toUnixTimestamp64Milli(timestamp), 3600000) * 3600000, 'UTC') AS bucket
    FROM red_5m
)
GROUP BY level, source, service_name, environment, service_version, outcome, method, route, bucket
