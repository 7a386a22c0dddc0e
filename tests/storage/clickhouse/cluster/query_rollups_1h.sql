SELECT k0 AS c0, k1 AS c1, a0 AS c2, a1 AS c3, a2 AS c4
FROM (
    SELECT
        service_name AS k0,
        metric_name AS k1,
        ifNotFinite(sumOrNull(toFloat64(toInt64(count))), NULL) AS a0,
        minOrNull(min) AS a1,
        maxOrNull(max) AS a2
    FROM rollups_1h_all
    WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
    GROUP BY k0, k1
)
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST, c3 ASC NULLS LAST, c4 ASC NULLS LAST
LIMIT 10001
