SELECT k0 AS c0, a0 AS c1, a1 AS c2
FROM (
    SELECT tag0 AS k0, toInt64(count()) AS a0, maxOrNull(value) AS a1
    FROM (
        SELECT series_id, value
        FROM samples_all
        WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
          AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
          AND (metric_name IN ({p2:String}, {p3:String}))
          AND series_id GLOBAL IN (SELECT series_id FROM series_all WHERE (tags[{p4:String}] = {p5:String}) AND (metric_name IN ({p2:String}, {p3:String})))
    ) AS selected
    GLOBAL ANY LEFT JOIN (SELECT series_id, tags[{p6:String}] AS tag0 FROM series_all WHERE (tags[{p4:String}] = {p5:String}) AND (metric_name IN ({p2:String}, {p3:String}))) AS tagged USING (series_id)
    GROUP BY k0
)
ORDER BY c1 DESC NULLS LAST, c0 ASC NULLS LAST, c2 ASC NULLS LAST
LIMIT 4
