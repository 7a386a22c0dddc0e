"""What lies in the files: segments, parts, chunks, and their encodings."""
