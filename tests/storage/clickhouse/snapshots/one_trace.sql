SELECT toUnixTimestamp64Milli(timestamp) AS c0, metric_name AS c1, value AS c2, span_id AS c3
FROM samples
WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
  AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
  AND (trace_id = {p2:String})
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST, c3 ASC NULLS LAST
LIMIT 10001
-- p0 = 1577836800000
-- p1 = 1795003600001
-- p2 = 't-3'
