-- The time of the newest data that an earlier version wrote, without rollups of requests; 0: there was none.
CREATE TABLE IF NOT EXISTS red_since
ENGINE = MergeTree
ORDER BY newest_ms
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
AS SELECT assumeNotNull(greatest(
    (SELECT toUnixTimestamp64Milli(max(timestamp)) FROM samples),
    (SELECT intDiv(max(start_ns), 1000000) FROM spans)
)) AS newest_ms
