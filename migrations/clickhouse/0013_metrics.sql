-- Samples with their tags, for people who query the tables with their own client.
CREATE VIEW IF NOT EXISTS metrics AS
SELECT timestamp, service_name, environment, metric_name, metric_type, value, tags, trace_id, span_id
FROM samples
ANY LEFT JOIN (SELECT series_id, tags FROM series) AS named USING (series_id)
