"""The key that every measured server requires."""

KEY = "benchmark-key"
