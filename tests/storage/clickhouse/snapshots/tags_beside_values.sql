SELECT toUnixTimestamp64Milli(timestamp) AS c0, tags AS c1, value AS c2
FROM (
    SELECT series_id, timestamp, value
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
) AS selected
ANY LEFT JOIN (SELECT series_id, tags, tags[{p4:String}] AS tag0 FROM series) AS tagged USING (series_id)
WHERE ((value > toFloat64({p2:Int64})) OR (tag0 LIKE {p3:String}))
ORDER BY c2 DESC NULLS LAST, c0 ASC NULLS LAST, mapKeys(c1) ASC, mapValues(c1) ASC
LIMIT 51
-- p0 = 1577836800000
-- p1 = 1795003600001
-- p2 = 100
-- p3 = '1%'
-- p4 = 'n'
