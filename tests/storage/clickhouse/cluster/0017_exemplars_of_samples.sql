CREATE MATERIALIZED VIEW IF NOT EXISTS exemplars_of_samples ON CLUSTER 'main' TO exemplars AS
SELECT trace_id, span_id, service_name, environment, metric_name, series_id, timestamp, value
FROM samples
WHERE trace_id != ''
