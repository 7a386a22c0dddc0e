SELECT k0 AS c0, a0 AS c1
FROM (
    SELECT metric_name AS k0, ifNotFinite(sumOrNull(growth), NULL) AS a0
    FROM (
        SELECT *, if(place = 1, NULL, if(value < before, value, value - before)) AS growth
        FROM (
            SELECT *, row_number() OVER growing AS place, lagInFrame(value) OVER growing AS before
            FROM (
                SELECT metric_name, series_id, timestamp, value
                FROM samples
                WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
                  AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
            ) AS held
            WINDOW growing AS (PARTITION BY series_id ORDER BY timestamp, value ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
        )
    )
    GROUP BY k0
)
WHERE (k0 = {p2:String})
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST
LIMIT 10001
-- p0 = 0
-- p1 = 1795003600001
-- p2 = 'm1'
