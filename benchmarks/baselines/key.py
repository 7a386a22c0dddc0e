"""The key every measured server asks for."""

KEY = "benchmark-key"
