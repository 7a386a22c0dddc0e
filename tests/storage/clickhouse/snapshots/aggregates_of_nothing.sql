SELECT a0 AS c0, a1 AS c1, a2 AS c2, a3 AS c3, a4 AS c4, a5 AS c5
FROM (
    SELECT
        toInt64(count()) AS a0,
        ifNotFinite(sumOrNull(value), NULL) AS a1,
        minOrNull(metric_name) AS a2,
        toInt64(uniqExact((value + 0.))) AS a3,
        ifNotFinite(quantileExactInclusiveOrNull(0.5)(value), NULL) AS a4,
        argMinOrNull(metric_name, (-value, metric_name)) AS a5
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
      AND (service_name = {p2:String})
)
LIMIT 10001
-- p0 = 1577836800000
-- p1 = 1795003600001
-- p2 = 'nobody'
