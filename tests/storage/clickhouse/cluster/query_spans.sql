SELECT
    k0 AS c0,
    k1 AS c1,
    a0 AS c2,
    ifNotFinite(toFloat64(a1) / toFloat64(a0), NULL) AS c3,
    ifNotFinite(a2 / {p5:Float64}, NULL) AS c4
FROM (
    SELECT
        service_name AS k0,
        attributes[{p0:String}] AS k1,
        toInt64(count()) AS a0,
        toInt64(countIf((status = {p1:String}))) AS a1,
        ifNotFinite(quantileExactInclusiveOrNull(0.95)(toFloat64(duration_ns)), NULL) AS a2
    FROM spans_all
    WHERE start_ns >= {p2:Int64}
      AND start_ns < {p3:Int64}
      AND (attributes[{p0:String}] != {p4:String})
    GROUP BY k0, k1
)
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST, c3 ASC NULLS LAST, c4 ASC NULLS LAST
LIMIT 10001
