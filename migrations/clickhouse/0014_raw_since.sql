-- Up to when samples were dropped for want of space; the latest row counts.
CREATE TABLE IF NOT EXISTS raw_since
(
    since DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY since
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
