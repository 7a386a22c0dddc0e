SELECT k0 AS c0, k1 AS c1, a0 AS c2
FROM (
    SELECT
        (intDiv(toUnixTimestamp64Milli(timestamp) + {p2:Int64}, {p0:Int64}) * {p0:Int64} - {p2:Int64}) AS k0,
        (intDiv((toUnixTimestamp64Milli(timestamp) - {p3:Int64}) + {p5:Int64}, {p4:Int64}) * {p4:Int64} - {p5:Int64}) AS k1,
        toInt64(count()) AS a0
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p6:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p7:Int64}, 'UTC')
    GROUP BY k0, k1
)
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST
LIMIT 10001
-- p0 = 604800000
-- p1 = 345600000
-- p2 = -345600000
-- p3 = 2160000000000
-- p4 = 86400000
-- p5 = 2305843009142400000
-- p6 = 1577836800000
-- p7 = 1795003600001
