CREATE TABLE IF NOT EXISTS filled_since ON CLUSTER 'main'
ENGINE = ReplicatedMergeTree
ORDER BY (what, since_ms)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
AS SELECT
    'edges' AS what,
    assumeNotNull(intDiv((SELECT max(start_ns) FROM spans), 1000000)) AS since_ms
UNION ALL
SELECT
    'red' AS what,
    assumeNotNull((SELECT max(newest_ms) FROM red_since)) AS since_ms;

CREATE TABLE IF NOT EXISTS filled_since_all ON CLUSTER 'main' AS filled_since ENGINE = Distributed('main', currentDatabase(), 'filled_since')
