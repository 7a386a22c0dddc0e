SELECT
    a0 AS c0,
    a1 AS c1,
    a2 AS c2,
    a3 AS c3,
    a4 AS c4,
    a5 AS c5,
    a6 AS c6,
    a7 AS c7,
    a8 AS c8,
    a9 AS c9,
    a10 AS c10,
    a11 AS c11,
    a12 AS c12,
    a13 AS c13,
    a14 AS c14,
    a15 AS c15,
    a16 AS c16
FROM (
    SELECT
        toInt64(count()) AS a0,
        toInt64(count(ifNotFinite(log(value), NULL))) AS a1,
        toInt64(countIf((value > toFloat64({p0:Int64})))) AS a2,
        ifNotFinite(sumOrNull(value), NULL) AS a3,
        ifNotFinite(sumOrNullIf(value, (value > toFloat64({p0:Int64}))), NULL) AS a4,
        ifNotFinite(avgOrNull(value), NULL) AS a5,
        ifNotFinite(avgOrNullIf(value, (unit = {p1:String})), NULL) AS a6,
        minOrNull(value) AS a7,
        maxOrNull(metric_name) AS a8,
        minOrNull(service_name) AS a9,
        ifNotFinite(stddevPopStableOrNull(value), NULL) AS a10,
        toInt64(uniqExact((value + 0.))) AS a11,
        toInt64(uniqExact(tag0)) AS a12,
        ifNotFinite(quantileExactInclusiveOrNull(0.5)(value), NULL) AS a13,
        ifNotFinite(quantileExactInclusiveOrNull(0.99)(value), NULL) AS a14,
        argMinOrNull(value, (-toUnixTimestamp64Milli(timestamp), value)) AS a15,
        argMinOrNull(metric_name, (-value, metric_name)) AS a16
    FROM (
        SELECT metric_name, series_id, service_name, timestamp, unit, value
        FROM samples
        WHERE timestamp >= fromUnixTimestamp64Milli({p2:Int64}, 'UTC')
          AND timestamp < fromUnixTimestamp64Milli({p3:Int64}, 'UTC')
          AND (abs(value) < {p4:Float64})
    ) AS selected
    ANY LEFT JOIN (SELECT series_id, tags[{p5:String}] AS tag0 FROM series) AS tagged USING (series_id)
)
LIMIT 10001
-- p0 = 10
-- p1 = 's'
-- p2 = 1577836800000
-- p3 = 1795003600001
-- p4 = 1000000.0
-- p5 = 'n'
