SELECT k0 AS c0, a0 AS c1, a1 AS c2, a2 AS c3
FROM (
    SELECT
        multiIf((value > toFloat64({p3:Int64})), {p0:String}, (value > toFloat64({p4:Int64})), {p1:String}, {p2:String}) AS k0,
        toInt64(count()) AS a0,
        ifNotFinite(sumOrNull(multiIf((value > toFloat64({p4:Int64})), toFloat64({p5:Int64}), {p6:Float64})), NULL) AS a1,
        minOrNull(multiIf((value > toFloat64({p4:Int64})), value, NULL)) AS a2
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p7:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p8:Int64}, 'UTC')
      AND (abs(value) < {p9:Float64})
    GROUP BY k0
)
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST, c3 ASC NULLS LAST
LIMIT 10001
-- p0 = 'high'
-- p1 = 'middle'
-- p2 = 'low'
-- p3 = 100
-- p4 = 10
-- p5 = 1
-- p6 = 0.5
-- p7 = 1577836800000
-- p8 = 1795003600001
-- p9 = 1000000.0
