SELECT
    toUnixTimestamp64Milli(timestamp) AS c0,
    service_name AS c1,
    environment AS c2,
    metric_name AS c3,
    metric_type AS c4,
    value AS c5,
    unit AS c6,
    tags AS c7,
    trace_id AS c8,
    span_id AS c9
FROM (
    SELECT environment, metric_name, metric_type, series_id, service_name, span_id, timestamp, trace_id, unit, value
    FROM samples_all
    WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
      AND (service_name = {p2:String})
) AS selected
GLOBAL ANY LEFT JOIN (SELECT series_id, tags FROM series_all WHERE (service_name = {p2:String})) AS tagged USING (series_id)
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST, c3 ASC NULLS LAST, c4 ASC NULLS LAST, c5 ASC NULLS LAST, c6 ASC NULLS LAST, mapKeys(c7) ASC, mapValues(c7) ASC, c8 ASC NULLS LAST, c9 ASC NULLS LAST
LIMIT 21
