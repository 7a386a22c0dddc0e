ALTER TABLE batch_ids ON CLUSTER 'main'
ADD INDEX IF NOT EXISTS batch_id_of batch_id TYPE bloom_filter(0.001) GRANULARITY 1
