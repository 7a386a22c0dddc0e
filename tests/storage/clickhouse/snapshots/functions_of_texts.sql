SELECT
    upper(service_name) AS c0,
    lower(concat(service_name, {p0:String}, metric_name)) AS c1,
    coalesce(multiIf((unit = {p1:String}), unit, NULL), {p2:String}) AS c2,
    concat(tag0, unit) AS c3
FROM (
    SELECT metric_name, series_id, service_name, unit
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p3:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p4:Int64}, 'UTC')
      AND series_id IN (SELECT series_id FROM series WHERE (tags[{p5:String}] = {p6:String}))
) AS selected
ANY LEFT JOIN (SELECT series_id, tags[{p7:String}] AS tag0 FROM series WHERE (tags[{p5:String}] = {p6:String})) AS tagged USING (series_id)
ORDER BY c0 ASC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST, c3 ASC NULLS LAST
LIMIT 10001
-- p0 = '/'
-- p1 = 's'
-- p2 = 'none'
-- p3 = 1577836800000
-- p4 = 1795003600001
-- p5 = 'ü'
-- p6 = 'ß'
-- p7 = 'n'
