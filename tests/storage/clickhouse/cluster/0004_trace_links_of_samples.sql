CREATE MATERIALIZED VIEW IF NOT EXISTS trace_links_of_samples ON CLUSTER 'main' TO trace_links AS
SELECT trace_id, span_id, service_name, environment, metric_name, series_id, timestamp, value
FROM samples
WHERE trace_id != ''
