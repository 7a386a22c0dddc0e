"""From bytes to batches, and on to the sink."""
