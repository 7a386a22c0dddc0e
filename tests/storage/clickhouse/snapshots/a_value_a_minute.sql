SELECT k0 AS c0, a0 AS c1, a1 AS c2
FROM (
    SELECT
        (intDiv(toUnixTimestamp64Milli(timestamp), {p0:Int64}) * {p0:Int64}) AS k0,
        ifNotFinite(avgOrNull(value), NULL) AS a0,
        ifNotFinite(quantileExactInclusiveOrNull(0.95)(value), NULL) AS a1
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p2:Int64}, 'UTC')
      AND (metric_name = {p3:String})
      AND (abs(value) < {p4:Float64})
    GROUP BY k0
)
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST
LIMIT 10001
-- p0 = 60000
-- p1 = 1577836800000
-- p2 = 1795003600001
-- p3 = 'm1'
-- p4 = 1000000.0
