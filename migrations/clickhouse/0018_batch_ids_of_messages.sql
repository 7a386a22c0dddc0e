-- A batch that came through a broker has the partition and offset of its message, and kept_at is the time of that.
-- Others have -1.
ALTER TABLE batch_ids
ADD COLUMN IF NOT EXISTS message_partition Int32 DEFAULT -1,
ADD COLUMN IF NOT EXISTS message_offset Int64 DEFAULT -1
