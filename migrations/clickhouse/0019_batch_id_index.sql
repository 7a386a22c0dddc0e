-- Finds an id among those of an hour.
ALTER TABLE batch_ids
ADD INDEX IF NOT EXISTS batch_id_of batch_id TYPE bloom_filter(0.001) GRANULARITY 1
