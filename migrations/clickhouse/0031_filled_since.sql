-- Since when there are edges and rollups of requests of all data: the earliest of each counts. What an earlier version
-- wrote is filled in, the newest first.
CREATE TABLE IF NOT EXISTS filled_since
ENGINE = MergeTree
ORDER BY (what, since_ms)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
AS SELECT
    'edges' AS what,
    assumeNotNull(intDiv((SELECT max(start_ns) FROM spans), 1000000)) AS since_ms
UNION ALL
SELECT
    'red' AS what,
    assumeNotNull((SELECT max(newest_ms) FROM red_since)) AS since_ms
