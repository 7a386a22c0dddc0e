SELECT
    ifNotFinite(ifNotFinite(value * toFloat64({p0:Int64}), NULL) + toFloat64({p1:Int64}), NULL) AS c0,
    ifNotFinite(value / ifNotFinite(value - value, NULL), NULL) AS c1,
    (-value) AS c2,
    (intDiv(toUnixTimestamp64Milli(timestamp), {p2:Int64}) - {p1:Int64}) AS c3,
    ifNotFinite(toFloat64(intDiv(toUnixTimestamp64Milli(timestamp), {p2:Int64})) * toFloat64({p0:Int64}), NULL) AS c4,
    ifNotFinite(value - toFloat64(intDiv(toUnixTimestamp64Milli(timestamp), {p2:Int64})), NULL) AS c5
FROM samples
WHERE timestamp >= fromUnixTimestamp64Milli({p3:Int64}, 'UTC')
  AND timestamp < fromUnixTimestamp64Milli({p4:Int64}, 'UTC')
  AND (abs(value) < {p5:Float64})
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST, c3 ASC NULLS LAST, c4 ASC NULLS LAST, c5 ASC NULLS LAST
LIMIT 10001
-- p0 = 2
-- p1 = 1
-- p2 = 1000
-- p3 = 1577836800000
-- p4 = 1795003600001
-- p5 = 1000000.0
