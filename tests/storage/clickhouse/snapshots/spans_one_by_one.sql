SELECT
    intDiv(start_ns, 1000000) AS c0,
    trace_id AS c1,
    name AS c2,
    attributes AS c3,
    (duration_ns > {p0:Int64}) AS c4
FROM spans
WHERE start_ns >= {p1:Int64}
  AND start_ns < {p2:Int64}
  AND (service_name = {p3:String})
ORDER BY duration_ns DESC NULLS LAST, c0 ASC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST, mapKeys(c3) ASC, mapValues(c3) ASC, c4 ASC NULLS LAST
LIMIT 11
-- p0 = 1000000
-- p1 = 1577836800000000000
-- p2 = 1795003600001000000
-- p3 = 'svc0'
