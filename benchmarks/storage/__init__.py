"""The embedded store against a row table, ClickHouse, VictoriaMetrics and Prometheus, on the same data in one run."""
