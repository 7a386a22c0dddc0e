CREATE TABLE IF NOT EXISTS red_since ON CLUSTER 'main'
ENGINE = ReplicatedMergeTree
ORDER BY newest_ms
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
AS SELECT assumeNotNull(greatest(
    (SELECT toUnixTimestamp64Milli(max(timestamp)) FROM samples),
    (SELECT intDiv(max(start_ns), 1000000) FROM spans)
)) AS newest_ms;

CREATE TABLE IF NOT EXISTS red_since_all ON CLUSTER 'main' AS red_since ENGINE = Distributed('main', currentDatabase(), 'red_since')
