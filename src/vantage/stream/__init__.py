"""Queues between ingest and the store."""
