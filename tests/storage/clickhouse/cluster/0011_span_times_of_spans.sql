CREATE MATERIALIZED VIEW IF NOT EXISTS span_times_of_spans ON CLUSTER 'main' TO span_times AS
SELECT trace_id, service_name, environment, min(began_ns) AS start_ns, max(began_ns) AS last_ns, month
FROM
(
    SELECT
        trace_id,
        service_name,
        environment,
        start_ns AS began_ns,
        toYYYYMM(fromUnixTimestamp64Nano(start_ns, 'UTC')) AS month
    FROM spans
)
GROUP BY trace_id, service_name, environment, month
