"""Background maintenance: seal, merge, expire, delete."""
