SELECT k0 AS c0, a0 AS c1
FROM (
    SELECT metric_name AS k0, ifNotFinite(sumOrNull(growth), NULL) AS a0
    FROM (
        SELECT *, if(number = 1, NULL, if(value < previous, value, value - previous)) AS growth
        FROM (
            SELECT *, row_number() OVER per_series AS number, lagInFrame(value) OVER per_series AS previous
            FROM (
                SELECT metric_name, series_id, timestamp, value
                FROM samples
                WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
                  AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
            ) AS selected
            WINDOW per_series AS (PARTITION BY series_id ORDER BY timestamp, value ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
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
