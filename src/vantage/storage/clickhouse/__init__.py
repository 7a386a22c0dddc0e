"""ClickHouse as a telemetry store; its engine runs inside the process (``chdb:///folder``). The tables are in
``migrations/clickhouse``."""
