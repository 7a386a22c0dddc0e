CREATE MATERIALIZED VIEW IF NOT EXISTS span_services_of_spans ON CLUSTER 'main' TO span_services AS
SELECT
    hour AS timestamp,
    service_name,
    environment,
    service_version,
    instance,
    toInt64(count()) AS spans,
    min(began_ns) AS first_ns,
    max(began_ns) AS last_ns
FROM
(
    SELECT
        service_name,
        environment,
        service_version,
        instance,
        start_ns AS began_ns,
        fromUnixTimestamp64Milli(intDiv(start_ns, 3600000000000) * 3600000, 'UTC') AS hour
    FROM spans
)
GROUP BY hour, service_name, environment, service_version, instance
