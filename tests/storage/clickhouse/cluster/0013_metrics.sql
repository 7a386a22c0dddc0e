CREATE VIEW IF NOT EXISTS metrics ON CLUSTER 'main' AS
SELECT timestamp, service_name, environment, metric_name, metric_type, value, tags, trace_id, span_id
FROM samples_all
GLOBAL ANY LEFT JOIN (SELECT series_id, tags FROM series_all) AS named USING (series_id)
