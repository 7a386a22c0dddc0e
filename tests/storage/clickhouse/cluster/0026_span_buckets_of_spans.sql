CREATE MATERIALIZED VIEW IF NOT EXISTS span_buckets_of_spans ON CLUSTER 'main' TO span_buckets AS
SELECT
    bucket AS timestamp,
    toInt64(count()) AS spans,
    sum(hash) AS fingerprint
FROM
(
    SELECT
        fromUnixTimestamp64Milli(intDiv(start_ns, 300000000000) * 300000, 'UTC') AS bucket,
        reinterpretAsInt64(cityHash64(trace_id, span_id, service_name, kind, start_ns)) AS hash
    FROM spans
)
GROUP BY bucket
