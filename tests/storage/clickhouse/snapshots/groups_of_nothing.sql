SELECT k0 AS c0, a0 AS c1
FROM (
    SELECT materialize(identity({p0:Int64})) AS k0, toInt64(count()) AS a0
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p2:Int64}, 'UTC')
      AND (service_name = {p3:String})
    GROUP BY k0
)
ORDER BY c1 ASC NULLS LAST
LIMIT 10001
-- p0 = 1
-- p1 = 1577836800000
-- p2 = 1795003600001
-- p3 = 'nobody'
