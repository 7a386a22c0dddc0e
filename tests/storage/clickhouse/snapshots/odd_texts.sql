SELECT a0 AS c0
FROM (
    SELECT toInt64(count()) AS a0
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
      AND series_id IN (SELECT series_id FROM series WHERE (tags[{p2:String}] = {p3:String}) AND (tags[{p4:String}] != {p5:String}))
)
LIMIT 10001
-- p0 = 1577836800000
-- p1 = 1795003600001
-- p2 = "it's"
-- p3 = '\\ \t\n\'"'
-- p4 = 'ü'
-- p5 = '{p0:String}'
