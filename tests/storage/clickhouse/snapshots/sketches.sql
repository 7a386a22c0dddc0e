SELECT k0 AS c0, a0 AS c1
FROM (
    SELECT metric_name AS k0, ifNotFinite(quantileBFloat16Merge(0.5)(sketch), NULL) AS a0
    FROM rollups_1h
    WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
    GROUP BY k0
)
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST
LIMIT 10001
-- p0 = 0
-- p1 = 1795003600001
