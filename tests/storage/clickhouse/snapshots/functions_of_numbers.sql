SELECT
    ifNotFinite(roundBankers(value, 1), NULL) AS c0,
    ifNotFinite(roundBankers(value, 0), NULL) AS c1,
    floor(value) AS c2,
    ceil(value) AS c3,
    abs(value) AS c4,
    ifNotFinite(log(ifNotFinite(abs(value) + toFloat64({p0:Int64}), NULL)), NULL) AS c5,
    ifNotFinite(exp(ifNotFinite(value / toFloat64({p1:Int64}), NULL)), NULL) AS c6
FROM samples
WHERE timestamp >= fromUnixTimestamp64Milli({p2:Int64}, 'UTC')
  AND timestamp < fromUnixTimestamp64Milli({p3:Int64}, 'UTC')
  AND (abs(value) < {p4:Float64})
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST, c3 ASC NULLS LAST, c4 ASC NULLS LAST, c5 ASC NULLS LAST, c6 ASC NULLS LAST
LIMIT 10001
-- p0 = 1
-- p1 = 1000
-- p2 = 1577836800000
-- p3 = 1795003600001
-- p4 = 1000000.0
