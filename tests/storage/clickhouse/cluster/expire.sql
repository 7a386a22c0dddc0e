ALTER TABLE spans ON CLUSTER 'main' MODIFY TTL toDateTime(intDiv(start_ns, 1000000000)) + toIntervalDay(30)
