-- A trace is a few rows: of a block only those are wanted, so blocks of a few thousand rows are found and read faster.
ALTER TABLE trace_links MODIFY SETTING min_compress_block_size = 16384, max_compress_block_size = 32768
