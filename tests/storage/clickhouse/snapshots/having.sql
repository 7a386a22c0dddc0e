SELECT k0 AS c0, k1 AS c1, ifNotFinite(a0 / toFloat64(a1), NULL) AS c2
FROM (
    SELECT
        service_name AS k0,
        metric_name AS k1,
        ifNotFinite(sumOrNull(value), NULL) AS a0,
        toInt64(count()) AS a1
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
      AND (abs(value) < {p2:Float64})
    GROUP BY k0, k1
)
WHERE ((a1 > {p3:Int64}) AND ifNull(ifNotFinite(a0 / toFloat64(a1), NULL) > toFloat64({p4:Int64}), false))
ORDER BY c2 DESC NULLS LAST, c0 ASC NULLS LAST, c1 ASC NULLS LAST
LIMIT 10001
-- p0 = 1577836800000
-- p1 = 1795003600001
-- p2 = 1000000.0
-- p3 = 20
-- p4 = 0
