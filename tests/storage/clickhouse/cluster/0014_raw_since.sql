CREATE TABLE IF NOT EXISTS raw_since ON CLUSTER 'main'
(
    since DateTime64(3, 'UTC')
)
ENGINE = ReplicatedMergeTree
ORDER BY since
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS raw_since_all ON CLUSTER 'main' AS raw_since ENGINE = Distributed('main', currentDatabase(), 'raw_since')
