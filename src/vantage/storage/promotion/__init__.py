"""Copying an embedded store to a ClickHouse server, hour by hour."""
