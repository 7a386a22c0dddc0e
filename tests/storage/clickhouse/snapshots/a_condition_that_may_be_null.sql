SELECT a0 AS c0, a1 AS c1
FROM (
    SELECT
        toInt64(count()) AS a0,
        toInt64(countIf(NOT (ifNull(ifNotFinite(log(value), NULL) > toFloat64({p0:Int64}), false)))) AS a1
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p2:Int64}, 'UTC')
      AND NOT (ifNull(ifNotFinite(log(value), NULL) > toFloat64({p3:Int64}), false))
)
LIMIT 10001
-- p0 = 1
-- p1 = 1577836800000
-- p2 = 1795003600001
-- p3 = 3
