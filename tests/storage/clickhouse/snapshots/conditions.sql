SELECT a0 AS c0
FROM (
    SELECT toInt64(count()) AS a0
    FROM samples
    WHERE timestamp >= fromUnixTimestamp64Milli({p0:Int64}, 'UTC')
      AND timestamp < fromUnixTimestamp64Milli({p1:Int64}, 'UTC')
      AND ((service_name != {p2:String}) OR NOT ((metric_name IN ({p3:String}, {p4:String}))))
      AND (service_name LIKE {p5:String})
      AND series_id IN (SELECT series_id FROM series WHERE ((service_name != {p2:String}) OR NOT ((metric_name IN ({p3:String}, {p4:String})))) AND (service_name LIKE {p5:String}) AND NOT ((tags[{p6:String}] LIKE {p7:String})))
      AND NOT (((value > toFloat64({p8:Int64})) AND ((value >= toFloat64({p9:Int64})) AND (value <= toFloat64({p10:Int64})))))
      AND NOT (((value + 0.) IN ({p11:Float64}, {p12:Float64})))
)
LIMIT 10001
-- p0 = 1577836800000
-- p1 = 1795003600001
-- p2 = 'svc0'
-- p3 = 'm1'
-- p4 = 'm3'
-- p5 = 's_c%'
-- p6 = 'n'
-- p7 = '\\%'
-- p8 = 10
-- p9 = 0
-- p10 = 100
-- p11 = 1.0
-- p12 = 2.5
