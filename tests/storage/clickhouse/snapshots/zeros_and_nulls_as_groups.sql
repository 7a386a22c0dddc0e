SELECT k0 AS c0, a0 AS c1
FROM (
    SELECT
        (multiIf((value > toFloat64({p1:Int64})), NULL, ifNotFinite(value * toFloat64({p0:Int64}), NULL)) + 0.) AS k0,
        toInt64(count()) AS a0
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p2:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p3:Int64}, 'UTC')
      AND (abs(value) < {p4:Float64})
    GROUP BY k0
)
ORDER BY c0 DESC NULLS LAST, c1 ASC NULLS LAST
LIMIT 10001
-- p0 = 0
-- p1 = 100
-- p2 = 1577836800000
-- p3 = 1795003600001
-- p4 = 1000000.0
