ALTER TABLE batch_ids ON CLUSTER 'main'
ADD COLUMN IF NOT EXISTS message_partition Int32 DEFAULT -1,
ADD COLUMN IF NOT EXISTS message_offset Int64 DEFAULT -1;

DROP TABLE IF EXISTS batch_ids_all ON CLUSTER 'main';

CREATE TABLE IF NOT EXISTS batch_ids_all ON CLUSTER 'main' AS batch_ids ENGINE = Distributed('main', currentDatabase(), 'batch_ids')
